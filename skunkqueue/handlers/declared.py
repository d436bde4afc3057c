"""From a function to a handler: a job that looks how the run has ended, and then calls the function with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Final

from skunkqueue.envelope import State
from skunkqueue.errors import WrongCall
from skunkqueue.handlers.handler import EVENTS, EndHandler, said
from skunkqueue.options import did_you_mean
from skunkqueue.printable import said as quoted
from skunkqueue.routes import PRIORITIES
from skunkqueue.schedules.definition import Pieces
from skunkqueue.schedules.registry import origin_of, registry

SOON: Final = 2.0
"""Seconds within which a run usually has ended whose handler is called: only the commit is still on its way."""


def check_events(events: Sequence[object]) -> tuple[str, ...]:
    """Raises WrongCall for what is no event."""
    for event in events:
        if event in ("ended", "cancelled", "expired"):
            raise WrongCall(
                f'there is no on("{event}"): runs are cancelled, and expire, in the store, where no code is called; '
                'give "failed", "succeeded" or both, or wait for a run with job.after(run, on="ended")'
            )
        if not isinstance(event, str) or event not in EVENTS:
            raise WrongCall(f"on is given how runs end; there is no {quoted(event)}{did_you_mean(event, EVENTS)}")
    if not events:
        raise WrongCall('on is given how runs end: queue.on("failed"), "succeeded", or both')
    return tuple(dict.fromkeys(map(str, events)))


def handling(
    function: Callable[[Any], Any], queue: Any, job_of: Callable[[], Any], run_of: Callable[[str, Any], Any]
) -> Callable[[Any], Any]:
    """What a worker calls: the author's function, once the run has ended as it is to be handled.

    ``job_of`` gives the job that is made of this, ``run_of`` the handle of a run by its id and its record.
    """

    @wraps(function)
    def handle(run: Any) -> Any:
        if not isinstance(run, str):
            return function(run)  # called by hand, in a test for instance
        event, _, id = run.partition(" ")
        record = queue.store.await_end(id, SOON)
        if record is None and id in queue.store.open_of([id]):
            # The pool that was to commit the end died before, or somebody has the run run again: it ends later.
            job_of().after(run_of(id, None), on="ended", on_lost="run").fire(run)
            return None
        if record is not None and record.state != State(event):
            return None
        return function(run_of(id, record))

    return handle


def give_handler(job: Any, events: Sequence[str], has_routes: bool) -> None:
    """Have a job called for each run of its queue that ends so. Raises WrongCall."""
    options = job.options_given
    if job.queue.broadcast:
        raise WrongCall(
            f"{job.name} is of a broadcast queue, whose runs have no fixed route: on(...) is for the others"
        )
    if options.expires is not None or options.is_spaced():
        raise WrongCall(f"{job.name} is called for every run: on(...) takes no expires, unique, window or debounce")
    if options.limited is not None:
        raise WrongCall(f"{job.name} is called for every run: on(...) takes no limit and no fair_by")
    job.handles = tuple(events), has_routes, registry.draw()
    registry.add_handler(job)
    hooks = job.queue.hooks
    hooks.handlers = [pair for pair in hooks.handlers if pair[0].name != job.name]  # a cell of a notebook comes again
    hooks.handlers.append((job, job.handles))


def handlers_of(job: Any) -> list[EndHandler]:
    """The handlers that such a job is, one for each event. Raises what a fire would raise for it."""
    events, has_routes, _ = job.handles
    pieces = Pieces(*job._plan.pieces((said(events[0], ""),), {}))
    origin = origin_of(job._module, job._by_value)
    options = job._plan.options
    placed = tuple(job._plan.routes) if has_routes else (PRIORITIES[options.priority],)
    return [EndHandler(event, job.name, placed, options.keep, origin, pieces) for event in events]
