"""What things are called in other queues, so that who comes from there is told what they are called here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

OF_A_JOB: Final[Mapping[str, str]] = {
    **dict.fromkeys(("delay", "send", "enqueue", "defer", "submit", "perform_async", "queue_job"), "fire(...)"),
    **dict.fromkeys(("delay_async", "kiq", "enqueue_async", "defer_async"), "await afire(...)"),
    **dict.fromkeys(("schedule", "enqueue_at", "enqueue_in", "perform_in", "apply_at"), "fire_at(when, ...)"),
    **dict.fromkeys(("apply_async", "send_with_options", "configure", "set", "using"), "options(...).fire(...)"),
    **dict.fromkeys(("s", "si", "signature", "subtask", "message"), "args(...), for fire_many"),
    **dict.fromkeys(("map", "starmap", "group", "chunks"), "fire_many([...])"),
    **dict.fromkeys(("apply", "call_local"), "a call: job(...)"),
}
OF_A_RUN: Final[Mapping[str, str]] = {
    **dict.fromkeys(("get", "join", "get_result", "return_value", "wait_result"), "wait(timeout)"),
    **dict.fromkeys(("ready", "status", "get_status", "successful", "is_finished"), "state"),
    **dict.fromkeys(("revoke", "abort", "kill", "delete", "terminate"), "cancel()"),
    **dict.fromkeys(("traceback", "exc_info"), "error, or the JobFailed that wait() raises"),
    **dict.fromkeys(("task_id", "job_id"), "id"),
}
OF_A_QUEUE: Final[Mapping[str, str]] = {
    **dict.fromkeys(("task", "actor", "shared_task", "register_task"), "@queue.job"),
    **dict.fromkeys(
        ("enqueue", "send", "send_task", "submit", "publish", "delay", "kiq"),
        "@queue.job above the function, and function.fire(...)",
    ),
    **dict.fromkeys(("fetch_job", "get_job", "AsyncResult"), "run(id)"),
    **dict.fromkeys(("worker", "run_worker", "start"), "WorkerPool(queue, routes)"),
}
OF_OPTIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("retry", "max_retries", "max_tries", "attempts", "max_attempts"), "retries=..."),
    **dict.fromkeys(("time_limit", "soft_time_limit", "job_timeout", "max_runtime"), "timeout=..."),
    **dict.fromkeys(("retry_delay", "default_retry_delay", "retry_backoff", "min_backoff", "interval"), "backoff=..."),
    **dict.fromkeys(("autoretry_for", "retry_when", "retry_for"), "retry_on=[...]"),
    **dict.fromkeys(("dont_autoretry_for", "throws"), "give_up_on=[...]"),
    **dict.fromkeys(("ttl", "result_ttl", "result_expires", "keep_result", "failure_ttl"), "keep=..."),
    **dict.fromkeys(("max_age", "expire", "queue_ttl"), "expires=..."),
    **dict.fromkeys(("queue", "queue_name", "routing_key"), "routes=[...]"),
    **dict.fromkeys(("rate_limit", "concurrency", "max_concurrency", "throttle"), "limit=Limit(...)"),
    **dict.fromkeys(("cron", "crontab", "schedule", "periodic", "run_every"), 'every="0 7 * * *" or every="6h"'),
    **dict.fromkeys(("tz", "timezone"), "zone=..."),
    **dict.fromkeys(("acks_late", "acks_on_failure"), "always so, unless at_most_once=True"),
    **dict.fromkeys(("task_id", "job_id", "key", "dedup", "lock"), "unique=..."),
    **dict.fromkeys(("delay", "countdown", "eta", "at", "defer_by", "defer_until"), "job.fire_at(when, ...)"),
    **dict.fromkeys(("depends_on", "link", "after"), "job.after(runs).fire(...)"),
    **dict.fromkeys(("bind", "pass_context"), "current_run(), called in the job"),
    **dict.fromkeys(("on_failure", "on_error", "link_error"), '@queue.on("failed")'),
    **dict.fromkeys(("on_success",), '@queue.on("succeeded")'),
}


def unknown_attribute(thing: Any, name: str, names: Mapping[str, str]) -> Any:
    """Raise the AttributeError for a name that is not there, with what it is called here.

    Python asks here too where a property has raised one: then it is the property's own that is raised.
    """
    if hasattr(type(thing), name):
        return object.__getattribute__(thing, name)
    meant = names.get(name)
    hint = "" if meant is None else f"; here it is {meant}"
    raise AttributeError(f"{type(thing).__name__!r} object has no attribute {name!r}{hint}", name=name, obj=thing)
