"""OpenTelemetry: a span where a run is fired, and one of each attempt in a worker, linked to it.

Needs ``opentelemetry-api``, the extra ``otel``. What becomes of the spans, the program says by its tracer provider.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from skunkqueue.distribution import pip_install, with_extra
from skunkqueue.errors import WrongCall

try:
    from opentelemetry import context, trace
    from opentelemetry.propagate import extract, inject
    from opentelemetry.trace import INVALID_SPAN, Link, SpanKind, Tracer
except ImportError as _error:
    raise WrongCall(f"skunkqueue.otel needs opentelemetry-api: {pip_install(with_extra('otel'))}") from _error

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

    from skunkqueue.queue import SkunkQueue
    from skunkqueue.run import CurrentRun

SYSTEM: Final = {"messaging.system": "skunkqueue"}


def instrument(queue: SkunkQueue) -> None:
    """Have spans made of what this queue's jobs fire and execute; once, where the queue is made.

    Firing makes a span "create JOB" (PRODUCER), whose context travels in the run's headers, with its baggage. Each
    attempt is a span "process JOB" (CONSUMER) of a trace of its own, with a link to the former; what the job does is
    below it, and its error is recorded. Workers must know headers, so update them before.
    """
    queue.hooks.add_stamp(stamp)
    if attempt not in queue.hooks.arounds:
        queue.hooks.arounds.insert(0, attempt)  # outermost, so that what others do around a run is in the span


def stamp(job: Any) -> Mapping[str, str]:
    """The headers of a run of this job that is fired now."""
    headers: dict[str, str] = {}
    attributes = {
        **SYSTEM,
        "messaging.operation.type": "create",
        "messaging.destination.name": job.queue.name,
        "skunkqueue.job": job.name,
    }
    with _tracer().start_as_current_span(f"create {job.name}", kind=SpanKind.PRODUCER, attributes=attributes):
        inject(headers)
    return headers


def attempt(run: CurrentRun) -> Iterator[None]:
    """Around each attempt: its span. A function of the module, as it travels with the jobs of a script."""
    sent = extract(run.headers)
    origin = trace.get_current_span(sent).get_span_context()
    attributes: dict[str, AttributeValue] = {
        **SYSTEM,
        "messaging.operation.type": "process",
        "messaging.message.id": run.id,
        "skunkqueue.job": str(run.job),
        "skunkqueue.attempt": run.attempt,
    }
    links = [Link(origin)] if origin.is_valid else []
    token = context.attach(trace.set_span_in_context(INVALID_SPAN, sent))  # its baggage, but a trace of its own
    try:
        with _tracer().start_as_current_span(
            f"process {run.job}", kind=SpanKind.CONSUMER, links=links, attributes=attributes
        ):
            yield
    finally:
        context.detach(token)


def _tracer() -> Tracer:
    return trace.get_tracer("skunkqueue")
