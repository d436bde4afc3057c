"""From a job and its options to the bodies of its runs: what is the same for all of them is made once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from skunkqueue.codec import PICKLED, encode_call, pickle_function
from skunkqueue.envelope import PRIORITIES, SIGNATURE, pack_body, pack_head
from skunkqueue.errors import TooLarge
from skunkqueue.keys import Keyring, default_keys
from skunkqueue.options import Options
from skunkqueue.signing import seal_body

if TYPE_CHECKING:
    from skunkqueue.job import Job


class Carried:
    """A job that travels by value: the function, and what of its options a worker has to ask.

    ``delay_of`` gives the seconds to wait after so many attempts; None leaves that to the pool.
    """

    sources: bytes = b""
    """The packed source lines that came with it, for its tracebacks; set by the worker that read it."""

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        retry_on: tuple[type[BaseException], ...] = (),
        give_up_on: tuple[type[BaseException], ...] = (),
        delay_of: Callable[[int], Any] | None = None,
    ) -> None:
        self.function = function
        self.name = name
        self.retry_on = retry_on
        self.give_up_on = give_up_on
        self.delay_of = delay_of


class Unsigned(NamedTuple):
    """A body that will be signed for each run that it becomes part of."""

    head: bytes
    code: bytes
    call: bytes
    keys: Keyring

    def sealed(self, id: str, queue: str) -> bytes:
        """The body of this very run."""
        return seal_body(self.head, self.code, self.call, id=id, queue=queue, keys=self.keys)

    @property
    def size(self) -> int:
        """Bytes of the body, once it is signed."""
        return len(pack_body(self.head, b"", b"")) + len(self.code) + len(self.call) + SIGNATURE


class Plan:
    """How one job with one set of options becomes envelopes; what is the same for all its runs is made once."""

    def __init__(self, job: Job[Any, Any], options: Options) -> None:
        self.job = job
        self.options = options
        self.routes = [route + PRIORITIES[options.priority] for route in options.routes]
        self.several = len(self.routes) > 1 or job.queue.broadcast
        # A worker asks an imported job for its types and functions; others than those have to travel.
        self._by_name = options.callables() == job.options_given.callables()
        self.head = pack_head(job.name, job.ref, options.seal())
        self._unsigned = pack_body(self.head, b"", b"")

    def code(self) -> bytes:
        """The function pickled as it is now; empty where a worker is to import it by its name."""
        job = self.job
        if self._by_name and job.is_importable():
            return b""
        return pickle_function(Carried(job.function, job.name, *self.options.callables()))

    def body(
        self, code: bytes, args: tuple[Any, ...], kwargs: Mapping[str, Any], keys: Keyring = default_keys
    ) -> bytes | Unsigned:
        """What a worker needs to make this call. Raises TypeError, a PayloadError or TooLarge."""
        self.job.check(*args, **kwargs)
        call = encode_call(args, kwargs, self.options.serializer)
        if code or call[:1] == PICKLED:
            unsigned = Unsigned(self.head, code, call, keys())
            self._check_size(unsigned.size)
            return unsigned
        body = self._unsigned + call
        self._check_size(len(body))
        return body

    def _check_size(self, size: int) -> None:
        if size > self.job.queue.max_payload:
            raise self._too_large(size)

    def _too_large(self, size: int) -> TooLarge:
        most = self.job.queue.max_payload
        return TooLarge(
            f"this run of {self.job.name} takes {size:,} bytes where at most {most:,} are sent: pass less, the name "
            f"of a file for instance, or give SkunkQueue a larger max_payload"
        )
