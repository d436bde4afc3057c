"""GearmanClient: submits jobs by name with data of any kind, and gives requests back; the names of python-gearman."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from skunkqueue.durations import seconds
from skunkqueue.errors import WrongCall
from skunkqueue.gearman.connection import Hosts
from skunkqueue.gearman.encoders import DataEncoder
from skunkqueue.gearman.errors import GearmanException, JobUnfinished, RemoteException, ServerRefused, ServerUnavailable
from skunkqueue.gearman.handle import ANSWER, JobHandle
from skunkqueue.gearman.session import PATIENCE, Session
from skunkqueue.gearman.submission import Submission

PRIORITY_NONE: Final = None
PRIORITY_HIGH: Final = "HIGH"
PRIORITY_LOW: Final = "LOW"
_PRIORITIES: Final[Mapping[Any, str]] = {
    None: "normal", "NORMAL": "normal", "normal": "normal",
    "HIGH": "high", "high": "high", "LOW": "low", "low": "low",
}  # fmt: skip

JOB_PENDING: Final = "PENDING"
JOB_CREATED: Final = "CREATED"
JOB_FAILED: Final = "FAILED"
JOB_COMPLETE: Final = "COMPLETE"
JOB_UNKNOWN: Final = "UNKNOWN"
"""The server was lost with the job, or refused it."""

_JOB_KEYS: Final = frozenset({"task", "data", "unique", "priority"})


class GearmanJobRequest:
    """A job that was submitted, and what is known of it so far."""

    def __init__(self, submission: Submission, session: Session, encoder: type[DataEncoder]) -> None:
        self.submission = submission
        self.follow: JobHandle = JobHandle(session, submission, encoder)
        """The same job as an AsyncClient's handle, which raises what a request only holds."""
        self._encoder = encoder
        self.timed_out = False
        """Whether the last wait for it ended before it did."""
        self.status: dict[str, Any] = {}
        """What ``get_job_status`` was told last."""

    def __repr__(self) -> str:
        return f"<GearmanJobRequest {self.task} {self.handle or self.unique} {self.state}>"

    @property
    def task(self) -> str:
        return self.submission.function

    @property
    def unique(self) -> str:
        return self.submission.unique

    @property
    def handle(self) -> str:
        """What the server calls the job; empty until it has accepted it."""
        return self.follow.handle

    @property
    def complete(self) -> bool:
        """Whether the job has ended; for a background job, whether the server has accepted it."""
        return self.follow.is_done()

    @property
    def accepted(self) -> bool:
        return self.submission.is_accepted or self.submission.is_done

    @property
    def state(self) -> str:
        """JOB_PENDING until the server has accepted it, JOB_CREATED, then JOB_COMPLETE, JOB_FAILED or JOB_UNKNOWN."""
        submission = self.submission
        if isinstance(submission.error, ServerUnavailable | ServerRefused):
            return JOB_UNKNOWN
        if submission.error is not None:
            return JOB_FAILED
        if submission.is_done and not submission.background:
            return JOB_COMPLETE
        return JOB_CREATED if submission.is_accepted else JOB_PENDING

    @property
    def result(self) -> Any:
        """The answer, None until there is one. Raises UnreadableAnswer."""
        return None if self.submission.error is not None else self.follow.result_so_far()

    @property
    def exception(self) -> str | None:
        """What the worker said of its failure, None if it said nothing."""
        error = self.submission.error
        return error.text if isinstance(error, RemoteException) else None

    @property
    def error(self) -> GearmanException | None:
        """Why there is no answer."""
        return self.submission.error

    @property
    def data_updates(self) -> list[Any]:
        """The parts of the result that the worker has sent so far."""
        return self._updates("data")

    @property
    def warning_updates(self) -> list[Any]:
        return self._updates("warning")

    def _updates(self, kind: str) -> list[Any]:
        return [self._encoder.decode(each.value) for each in self.submission.updates if each.kind == kind]


class GearmanClient:
    """Submits jobs by the name of their function. ``data_encoder`` is for data and results; here they are bytes.

    Nothing that becomes of a job is raised: it stands in its request. Raises WrongCall for a job that cannot be
    submitted, ServerUnavailable where there is no server for it.
    """

    data_encoder: type[DataEncoder] = DataEncoder

    def __init__(self, host_list: Hosts = ("localhost:4730",), *, patience: float = PATIENCE) -> None:
        self._session = Session(host_list, patience=seconds(patience, "patience"))

    def submit_job(
        self,
        task: str,
        data: Any = b"",
        unique: str | None = None,
        priority: str | None = PRIORITY_NONE,
        background: bool = False,
        wait_until_complete: bool = True,
        poll_timeout: float | None = None,
    ) -> GearmanJobRequest:
        """Submit a job; wait until a server has accepted it and, with ``wait_until_complete``, until it has ended.

        After ``poll_timeout`` seconds the request comes back with ``timed_out``. A job that was lost with its server
        is submitted again with the same unique key.
        """
        job = {"task": task, "data": data, "unique": unique, "priority": priority}
        (request,) = self.submit_multiple_jobs(
            [job], background=background, wait_until_complete=wait_until_complete, poll_timeout=poll_timeout
        )
        return request

    def submit_multiple_jobs(
        self,
        jobs_to_submit: Sequence[Mapping[str, Any]],
        background: bool = False,
        wait_until_complete: bool = True,
        poll_timeout: float | None = None,
    ) -> list[GearmanJobRequest]:
        """Submit jobs at once, each a dict with ``task``, ``data`` and, if wanted, ``unique`` and ``priority``."""
        submissions = [self._submission(job, background) for job in jobs_to_submit]
        found = self._session.submit(submissions) if submissions else []
        requests = [GearmanJobRequest(each, self._session, self.data_encoder) for each in found]
        wait = self.wait_until_jobs_completed if wait_until_complete else self.wait_until_jobs_accepted
        return wait(requests, poll_timeout)

    def wait_until_jobs_accepted(
        self, job_requests: Iterable[GearmanJobRequest], poll_timeout: float | None = None
    ) -> list[GearmanJobRequest]:
        """Wait until servers have accepted them all."""
        requests = list(job_requests)
        self._session.wait(lambda: all(each.accepted for each in requests), poll_timeout)
        for each in requests:
            each.timed_out = not each.accepted
        return requests

    def wait_until_jobs_completed(
        self, job_requests: Iterable[GearmanJobRequest], poll_timeout: float | None = None
    ) -> list[GearmanJobRequest]:
        """Wait until they have all ended."""
        requests = list(job_requests)
        open_ones = [each.submission for each in requests]

        def are_done() -> bool:
            while open_ones and open_ones[-1].is_done:
                open_ones.pop()
            return not open_ones

        self._session.wait(are_done, poll_timeout)
        for each in requests:
            each.timed_out = not each.submission.is_done
        return requests

    def get_job_status(
        self, current_request: GearmanJobRequest, poll_timeout: float | None = ANSWER
    ) -> GearmanJobRequest:
        """Ask the server for ``status``: ``known``, ``running``, ``numerator``, ``denominator``."""
        try:
            status = current_request.follow.ask_status(poll_timeout)
        except JobUnfinished:
            current_request.timed_out = True
            return current_request
        current_request.timed_out = False
        current_request.status = {
            "handle": current_request.handle,
            "known": status.known,
            "running": status.running,
            "numerator": status.numerator,
            "denominator": status.denominator,
            "time_received": time.time(),
        }
        return current_request

    def get_job_statuses(
        self, job_requests: Iterable[GearmanJobRequest], poll_timeout: float | None = ANSWER
    ) -> list[GearmanJobRequest]:
        """The same for several."""
        return [self.get_job_status(each, poll_timeout) for each in job_requests]

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    shutdown = close

    def __enter__(self) -> GearmanClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _submission(self, job: Mapping[str, Any], background: bool) -> Submission:
        if not isinstance(job, Mapping) or "task" not in job or not job.keys() <= _JOB_KEYS:
            raise WrongCall(f"a job is a dict with task, data, unique and priority; got {job!r}")
        priority = job.get("priority")
        if priority not in _PRIORITIES:
            raise WrongCall(f"priority is PRIORITY_NONE, PRIORITY_HIGH or PRIORITY_LOW; got {priority!r}")
        try:
            data = self.data_encoder.encode(job.get("data", b""))
        except (TypeError, ValueError, RecursionError) as error:
            raise WrongCall(f"the data of {job['task']} cannot be sent: {error}") from error
        return Submission(
            job["task"], data, unique=job.get("unique") or None, priority=_PRIORITIES[priority], background=background
        )
