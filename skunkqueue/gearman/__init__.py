"""Gearman: its protocol, clients and workers, for a gearmand or for the job server that comes with SkunkQueue."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from skunkqueue.gearman.admin import AdminClient
    from skunkqueue.gearman.base_worker import BaseWorker
    from skunkqueue.gearman.client import AsyncClient, SimpleClient
    from skunkqueue.gearman.commands import GearmanCMD, GearmanCMDQueue
    from skunkqueue.gearman.encoders import DataEncoder, JSONDataEncoder
    from skunkqueue.gearman.errors import (
        GearmanException,
        JobUnfinished,
        RemoteException,
        ServerRefused,
        ServerUnavailable,
        UnreadableAnswer,
        WorkFailed,
    )
    from skunkqueue.gearman.handle import JobHandle
    from skunkqueue.gearman.job import GearmanJob
    from skunkqueue.gearman.requests import GearmanClient, GearmanJobRequest
    from skunkqueue.gearman.runner import WorkRunner
    from skunkqueue.gearman.server import GearmanServer
    from skunkqueue.gearman.worker import GearmanWorker, JsonWorker

__all__ = [
    "AdminClient",
    "AsyncClient",
    "BaseWorker",
    "DataEncoder",
    "GearmanCMD",
    "GearmanCMDQueue",
    "GearmanClient",
    "GearmanException",
    "GearmanJob",
    "GearmanJobRequest",
    "GearmanServer",
    "GearmanWorker",
    "JSONDataEncoder",
    "JobHandle",
    "JobUnfinished",
    "JsonWorker",
    "RemoteException",
    "ServerRefused",
    "ServerUnavailable",
    "SimpleClient",
    "UnreadableAnswer",
    "WorkFailed",
    "WorkRunner",
]

# A worker process needs nothing of clients and servers, and a client nothing of workers.
_PLACES: Final[Mapping[str, str]] = {
    "AdminClient": "admin",
    "BaseWorker": "base_worker",
    **dict.fromkeys(("AsyncClient", "SimpleClient"), "client"),
    **dict.fromkeys(("GearmanCMD", "GearmanCMDQueue"), "commands"),
    **dict.fromkeys(("DataEncoder", "JSONDataEncoder"), "encoders"),
    **dict.fromkeys(("GearmanWorker", "JsonWorker"), "worker"),
    "GearmanServer": "server",
    **dict.fromkeys(("GearmanException", "JobUnfinished", "RemoteException", "ServerRefused"), "errors"),
    **dict.fromkeys(("ServerUnavailable", "UnreadableAnswer", "WorkFailed"), "errors"),
    "GearmanJob": "job",
    "JobHandle": "handle",
    **dict.fromkeys(("GearmanClient", "GearmanJobRequest"), "requests"),
    "WorkRunner": "runner",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
