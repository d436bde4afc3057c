"""GearmanCMD: a worker whose jobs are commands, each done by the method of that name of a GearmanCMDQueue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, Final, Protocol

from skunkqueue.errors import WrongCall
from skunkqueue.gearman.connection import Hosts, parse_hosts
from skunkqueue.gearman.job import GearmanJob
from skunkqueue.gearman.protocol import check_function
from skunkqueue.gearman.worker import GearmanWorker, JsonWorker

DEFAULT: Final = "default"
DISPATCH: Final = "dispatch"


class StopTrigger(Protocol):
    """What stops ``run`` from outside once it is set: a ``threading.Event``, for instance."""

    def is_set(self) -> bool:
        """Whether to stop."""


class NotATask(TypeError):
    """What a client sent has no commands. It fails that one job, and never comes out of ``run``."""


class GearmanCMDQueue:
    """To be subclassed: each public method ``(self, gcmd, task)`` is a command.

    A method ``dispatch(self, task)``, if there is one, gives the name of the command for a task, or None to ignore it.
    Only methods that subclasses define can be commands: nothing of this class, nothing of other base classes, nothing
    whose name begins with an underscore, and never ``dispatch``, whatever a packet says.
    """

    def default(self, gcmd: GearmanCMD, task: Any) -> Any:
        """Called for a command that there is no method for. Raises NotImplementedError unless overridden."""
        raise NotImplementedError(f"{type(self).__name__} has no command for the task {task!r:.200}")


class GearmanCMD:
    """Serves queues of commands from ``servers``, in this process, one command at a time.

    ``command`` is the key of a task that names its command. Every ``poll_timeout`` seconds at the latest it looks
    whether it is to stop. An exception in a command reaches its client, and then comes out of ``run``; with
    ``exception_handler`` its return value is the client's answer instead, and the work goes on.

    Raises WrongCall for options that cannot be right.
    """

    worker: type[GearmanWorker] = JsonWorker
    """To be overridden, for another data encoder: a subclass of GearmanWorker."""

    def __init__(
        self,
        servers: Hosts,
        command: str | None = "command",
        poll_timeout: float = 0.1,
        exception_handler: Callable[[Exception], Any] | None = None,
    ) -> None:
        if not poll_timeout > 0:
            raise WrongCall(f"poll_timeout is a number of seconds above 0, got {poll_timeout!r}")
        self._servers = parse_hosts(servers)
        self._command = command or "command"
        self._poll_timeout = poll_timeout
        self._exception_handler = exception_handler
        self._queues: dict[str, GearmanCMDQueue] = {}
        self._running: GearmanWorker | None = None
        self._error: Exception | None = None
        self._stopping = False

    def register_task(self, queue: str, target: GearmanCMDQueue) -> None:
        """Have the commands of the Gearman function ``queue`` done by ``target``. While it runs, from the next ``run``
        on. Raises WrongCall.
        """
        if isinstance(target, type) or not isinstance(target, GearmanCMDQueue):
            raise WrongCall(f"the target of {queue!r} is an instance of a GearmanCMDQueue subclass; got {target!r}")
        self._queues[check_function(queue)] = target

    def run(self, stop_trigger: StopTrigger | None = None) -> None:
        """Work until ``stop``, or until ``stop_trigger`` is set; may be called again. Raises what a command raised."""
        if self._running is not None:
            raise WrongCall("this GearmanCMD runs already")
        self._error, self._stopping = None, False
        worker = self._running = self.worker(self._servers)
        for queue, target in dict(self._queues).items():
            worker.register_task(queue, self._handler(queue, target))

        def goes_on(any_activity: bool) -> bool:
            return not (self._stopping or (stop_trigger is not None and stop_trigger.is_set()))

        worker.after_poll = goes_on  # type: ignore[method-assign]
        try:
            if goes_on(False):
                worker.work(poll_timeout=self._poll_timeout)
        finally:
            self._running = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stop(self) -> None:
        """Stop after the current command. From any thread, from a command, and also when it does not run."""
        self._stopping = True
        worker = self._running
        if worker is not None:
            worker.shutdown()

    def dispatch(self, queue: str, task: Any) -> str | None:
        """The name of the command for a task of this queue; None to ignore the task. To be overridden.

        By default what the ``dispatch`` of the queue says, else the task's ``command``, else "default".
        """
        target = self._queues[queue]
        dispatch = getattr(target, DISPATCH, None)
        if callable(dispatch):
            found: str | None = dispatch(task)
            return found
        if not isinstance(task, Mapping):
            raise NotATask(f"a task is an object with the key {self._command!r}; got {type(task).__name__}")
        name = task.get(self._command, DEFAULT)
        return name if isinstance(name, str) else DEFAULT

    # internals

    def _handler(self, queue: str, target: GearmanCMDQueue) -> Callable[[GearmanWorker, GearmanJob], Any]:
        def handle(worker: GearmanWorker, job: GearmanJob) -> Any:
            try:
                return self._answer(queue, target, job.data)
            except NotATask:
                raise  # whoever sends such a thing stops nobody but himself
            except Exception as error:
                self._error = error
                self.stop()
                raise

        return handle

    def _answer(self, queue: str, target: GearmanCMDQueue, task: Any) -> Any:
        try:
            return self._process(queue, target, task)
        except Exception as error:
            if self._exception_handler is None:
                raise
            return self._exception_handler(error)

    def _process(self, queue: str, target: GearmanCMDQueue, task: Any) -> Any:
        name = self.dispatch(queue, task)
        if name is None:
            return None
        if not isinstance(name, str):
            raise TypeError(f"dispatch gives the name of a command, or None to ignore the task; got {name!r:.100}")
        return command_of(target, name)(self, task)


def command_of(target: GearmanCMDQueue, name: str) -> Callable[[GearmanCMD, Any], Any]:
    """The method for a command, else ``default``."""
    if not name.startswith("_") and name != DISPATCH:
        for owner in type(target).__mro__:
            if name in vars(owner):
                is_theirs = issubclass(owner, GearmanCMDQueue) and owner is not GearmanCMDQueue
                if is_theirs and isinstance(vars(owner)[name], FunctionType):
                    method: Callable[[GearmanCMD, Any], Any] = vars(owner)[name].__get__(target)
                    return method
                break
    return target.default
