"""Checks a pipeline of the user: runs put through it must be stored with the user's writes or not at all."""

from __future__ import annotations

from typing import Any

from skunkqueue.errors import WrongCall
from skunkqueue.persistence.redis.url import Target


def check_pipeline(via: Any, target: Target) -> None:
    """Raise WrongCall for anything but a redis.Pipeline with a transaction, to the database of the queue."""
    if not hasattr(via, "execute_command") or not hasattr(via, "command_stack"):
        raise WrongCall(f"via is a redis.Pipeline; got {type(via).__name__}")
    has_transaction, is_watching = _ways(via)
    if not has_transaction:
        raise WrongCall("via is a pipeline without a transaction; make it with pipeline(transaction=True)")
    if is_watching:
        raise WrongCall("via is a pipeline that watches keys and has not begun; call its multi() first")
    number = getattr(getattr(via, "connection_pool", None), "connection_kwargs", {}).get("db") or 0
    if number != target.options.get("db", 0):
        raise WrongCall(f"via is a pipeline to database {number}; the queue is in {target.url}")


def _ways(via: Any) -> tuple[bool, bool]:
    """Whether it will be a transaction, and whether it sends commands at once because it watches keys."""
    strategy = getattr(via, "_execution_strategy", None)  # where a cluster's pipeline keeps it
    if strategy is not None:
        begun = bool(getattr(strategy, "_explicit_transaction", False))
        return type(strategy).__name__ == "TransactionStrategy", bool(
            getattr(strategy, "_watching", False)
        ) and not begun
    begun = bool(getattr(via, "explicit_transaction", False))
    return bool(getattr(via, "transaction", False)) or begun, bool(getattr(via, "watching", False)) and not begun
