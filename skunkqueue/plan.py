"""Makes the bodies of runs from a job and its options. What is the same for all runs is made once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from skunkqueue import culprit
from skunkqueue.codec import PICKLED, encode_call, pickle_function, pickled_size, scalar_call, with_headers
from skunkqueue.connection import at_home
from skunkqueue.envelope import SIGNATURE, pack_body, pack_head
from skunkqueue.errors import TooLarge, WrongCall
from skunkqueue.keys import Keyring, default_keys
from skunkqueue.limits.limit import Limit
from skunkqueue.options import Options
from skunkqueue.referred import Reference, keeping, refer
from skunkqueue.routes import PRIORITIES, keyed
from skunkqueue.signing import seal_body

if TYPE_CHECKING:
    from skunkqueue.hooks import Hooks
    from skunkqueue.job import Job


class Carried:
    """A job that travels by value: the function, and the options that only the job itself can give a worker.

    ``delay_of`` returns the seconds to wait after so many attempts; None leaves that to the pool.
    """

    sources: bytes = b""
    """The packed source lines that came with the function, for tracebacks; set by the worker that read it."""
    hooks: Hooks | None = None
    """What its queue has executed around it."""

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
    """A body that is signed for each of its runs, because the signature covers the run's id."""

    head: bytes
    code: bytes
    call: bytes
    keys: Keyring

    def sealed(self, id: str, queue: str) -> bytes:
        """The signed body of the run with this id."""
        body = seal_body(self.head, self.code, self.call, id=id, queue=queue, keys=self.keys)
        return keeping(body, self.code)

    @property
    def size(self) -> int:
        """Bytes of the body, once it is signed."""
        return len(pack_body(self.head, b"", b"")) + len(self.code) + len(self.call) + SIGNATURE


class Plan:
    """Makes the bodies of runs of one job with one set of options. What is the same for all its runs is made once."""

    def __init__(self, job: Job[Any, Any], options: Options) -> None:
        self.job = job
        self.options = options
        self.routes: list[str] = [route + PRIORITIES[options.priority] for route in options.routes]
        self.spaced: bool = options.is_spaced()
        self.asks_first: bool = options.window is not None or options.debounce is not None
        self.several: bool = len(self.routes) > 1 or job.queue.broadcast
        self.limited: Limit | None = options.limited
        if options.limited is not None and job.queue.broadcast:
            raise WrongCall(
                f"{job.name} is of a broadcast queue, which gives each worker a run of its own: it has no limit"
            )
        # A worker takes these options from the job it imports. If they were changed, they travel with the function.
        self._by_name = options.callables() == job.options_given.callables()
        self.head: bytes = pack_head(job.name, job.ref, options.seal())
        self._unsigned = pack_body(self.head, b"", b"")
        self._reference: Reference | None = None

    def keys(self, calls: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]) -> Sequence[str]:
        """The digests of the keys that these calls have by the limit of the job; none at all if it has no limit."""
        if self.limited is None:
            return ()
        return [self.limited.digest(self.job.name, args, kwargs) for args, kwargs in calls]

    def routes_of(self, key: str) -> list[str]:
        """Where the runs of calls with this key lie."""
        return [keyed(route, key) for route in self.routes] if key else self.routes

    def code(self) -> bytes:
        """The function, pickled as it is now; empty if workers are to import it by its name.

        For a store of this process, it is a reference to the function itself, with its closure.
        """
        job = self.job
        if self._by_name and job.is_importable():
            return b""
        carried = Carried(job.function, job.name, *self.options.callables())
        if job.hooks:
            carried.hooks = job.hooks
        if not job.queue.one_process:
            with at_home(job.queue.address):
                return pickle_function(carried, self._parts)
        keeper = job._plan if self._by_name else self  # all plans that carry the same share one reference
        keeper._reference = keeper._reference or refer(carried)
        return keeper._reference

    def _parts(self) -> list[culprit.Part]:
        """What travels with the function, to be named in errors."""
        options = zip(("retry_on", "give_up_on", "the backoff function"), self.options.callables(), strict=True)
        return [*culprit.of_function(self.job.function), *options]

    def pieces(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> tuple[bytes, bytes, bytes]:
        """Head, code and call of a body that is to be sealed later, by others. Raises as ``body`` does.

        Nothing is fired now, so the headers are only those that were given by hand.
        """
        code = self.code()
        self.job.check(*args, **kwargs)
        call = self._call(args, kwargs)
        if headers:
            call = with_headers(headers, call)
        self._check_size(len(self._unsigned) + len(code) + len(call) + SIGNATURE, code, args, kwargs)
        return self.head, code, call

    def _call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        call = scalar_call(args, kwargs)
        if call is None:
            with at_home(self.job.queue.address):
                call = encode_call(args, kwargs, self.options.serializer)
        return call

    def body(
        self,
        code: bytes,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        keys: Keyring = default_keys,
        headers: Mapping[str, str] | None = None,
    ) -> bytes | Unsigned:
        """What a worker needs to make this call. Raises TypeError, a PayloadError or TooLarge."""
        self.job.check(*args, **kwargs)
        call = self._call(args, kwargs)
        is_signed = bool(code) or call[:1] == PICKLED
        hooks = self.job.queue.hooks
        if hooks.stamps:
            headers = hooks.stamped(self.job, headers)
        if headers:
            call = with_headers(headers, call)
        if is_signed:
            unsigned = Unsigned(self.head, code, call, keys())
            self._check_size(unsigned.size, code, args, kwargs)
            return unsigned
        body = self._unsigned + call
        self._check_size(len(body), code, args, kwargs)
        return body

    def _check_size(self, size: int, code: bytes, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if size > self.job.queue.max_payload:
            parts = [*culprit.of_call(args, kwargs), *(self._parts() if code else ())]
            raise self._too_large(size, culprit.largest(parts, pickled_size))

    def _too_large(self, size: int, largest: str) -> TooLarge:
        most = self.job.queue.max_payload
        mostly = f", the largest part of it {largest}" if largest else ""
        return TooLarge(
            f"this run of {self.job.name} takes {size:,} bytes where at most {most:,} are sent{mostly}: pass less, the "
            f"name of a file for instance, or give SkunkQueue a larger max_payload"
        )
