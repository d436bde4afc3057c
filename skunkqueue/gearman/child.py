"""In a worker process: makes the tasks of BaseWorkers into jobs that a pool can hand out by name."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import _exit as exit_at_once
from typing import Any, Final

from skunkqueue.codec import default_keys, pickle_function, unpickle_function
from skunkqueue.envelope import SIGNATURE
from skunkqueue.gearman.base_worker import BaseWorker
from skunkqueue.gearman.job import GearmanJob
from skunkqueue.gearman.parts import PartsSender
from skunkqueue.gearman.protocol import PacketType
from skunkqueue.gearman.worker import Callback, GearmanWorker
from skunkqueue.gearman.worker_connection import Assigned
from skunkqueue.job import Carried
from skunkqueue.run import current_run
from skunkqueue.worker import Hook, ShownResult, shared_bytes, shown

FUNCTION: Final = "skunkqueue.gearman.child:jobs"
WORKERS: Final = b"gearman workers"
"""The purpose in the signature of the pickled classes."""


def hook_for(workers: Sequence[type[BaseWorker]], hosts: Sequence[str], verbosity: int, parts: int) -> Hook:
    """A hook that makes these workers in each worker process. Its first descriptor is the caller's to close.

    ``parts`` is that of a PartsReader's ``sender``.
    """
    carried = Carried(partial(_make, tuple(workers), tuple(hosts), verbosity), "workers")
    code = pickle_function(carried)
    data = default_keys().sign(WORKERS, code) + code
    fd = shared_bytes(len(data))
    os.pwrite(fd, data, 0)
    return Hook(FUNCTION, fds=(fd, parts))


def jobs(data: bytes, fds: Sequence[int]) -> Mapping[str, Carried]:
    """The jobs of this worker process: makes the workers, and calls their ``setUp``. Raises BadSignature.

    If a ``setUp`` fails, the process ends, and its pool starts another one after a pause.
    """
    signed = os.pread(fds[0], os.fstat(fds[0]).st_size, 0)
    code = signed[SIGNATURE:]
    default_keys().verify(WORKERS, code, signed[:SIGNATURE])
    make: Callable[[PartsSender], Mapping[str, Carried]] = unpickle_function(code)[0].function
    try:
        return make(PartsSender(fds[1]))
    except Exception:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        exit_at_once(1)


def _make(
    classes: Sequence[type[BaseWorker]], hosts: Sequence[str], verbosity: int, parts: PartsSender
) -> Mapping[str, Carried]:
    registry = as_registry(classes[0].work_class(list(hosts)), parts)
    for each in classes:
        each(verbosity=verbosity, hosts=list(hosts), gearman_worker=registry)
    return {
        name: Carried(ExportedTask(registry, name, function), name)
        for name, function in registry.worker_abilities.items()
    }


def as_registry(worker: GearmanWorker, parts: PartsSender) -> GearmanWorker:
    """A worker that only knows functions: jobs come from the pool, and what it sends goes through the pool."""

    def send_status(current_job: GearmanJob, numerator: int, denominator: int) -> None:
        share = min(max(numerator / denominator, 0.0), 1.0) if denominator else 0.0
        current_run().progress(share, f"{int(numerator)}/{int(denominator)}")

    def send_data(current_job: GearmanJob, data: Any) -> None:
        parts.send(current_run().id, PacketType.WORK_DATA, worker.data_encoder.encode(data))

    def send_warning(current_job: GearmanJob, data: Any) -> None:
        parts.send(current_run().id, PacketType.WORK_WARNING, worker.data_encoder.encode(data))

    worker.send_job_status = send_status  # type: ignore[method-assign]
    worker.send_job_data = send_data  # type: ignore[method-assign]
    worker.send_job_warning = send_warning  # type: ignore[method-assign]
    return worker


class ExportedTask:
    """A job that decodes its data, calls the function that a worker has registered, and encodes the value."""

    def __init__(self, worker: GearmanWorker, name: str, function: Callback) -> None:
        self._worker = worker
        self._name = name.encode()
        self._function = function

    def __call__(self, handle: bytes, unique: bytes, data: bytes) -> ShownResult:
        job = GearmanJob(Assigned(handle, self._name, unique, data))
        encoder = self._worker.data_encoder
        job.data = encoder.decode(data)
        value = self._function(self._worker, job)
        return ShownResult(encoder.encode(value), shown(value))
