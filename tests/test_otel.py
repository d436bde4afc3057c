"""Spans of what is fired and executed, linked to each other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from pools import LIMIT

from skunkqueue import Retry, SkunkQueue
from skunkqueue.otel import instrument
from skunkqueue.testing import drain


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What is exported. The program's provider can be set once only, so the one of this test is put in its place."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


@pytest.fixture
def queue(spans: InMemorySpanExporter) -> Iterator[SkunkQueue]:
    with SkunkQueue("demo", "memory://otel") as queue:
        instrument(queue)
        instrument(queue)  # twice is once
        yield queue
        queue.store.clear()  # type: ignore[attr-defined]


def test_a_fire_and_its_attempt_are_spans_linked_to_each_other(queue: SkunkQueue, spans: Any) -> None:
    @queue.event(name="add")
    def add(first: int, second: int) -> int:
        with trace.get_tracer("mine").start_as_current_span("inside"):
            return first + second

    with trace.get_tracer("mine").start_as_current_span("request") as request:
        run = add.fire(1, 2)
    drain(queue)

    create, _, inside, process = spans.get_finished_spans()
    assert [each.name for each in (create, inside, process)] == ["create add", "inside", "process add"]
    assert (create.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert create.context.trace_id == request.get_span_context().trace_id
    (link,) = process.links
    assert (link.context.trace_id, link.context.span_id) == (create.context.trace_id, create.context.span_id)
    assert process.parent is None and process.context.trace_id != create.context.trace_id
    assert inside.parent.span_id == process.context.span_id
    assert process.attributes["messaging.message.id"] == run.id
    assert (process.attributes["skunkqueue.attempt"], create.attributes["messaging.destination.name"]) == (1, "demo")
    assert run.result == 3 and list(run.headers) == ["traceparent"]


def test_each_attempt_is_a_span_with_its_error(queue: SkunkQueue, spans: Any) -> None:
    @queue.event(name="fails", retries=1, backoff=0)
    async def fails() -> None:
        raise Retry("not yet")

    fails.fire()
    drain(queue)

    attempts = [each for each in spans.get_finished_spans() if each.kind == SpanKind.CONSUMER]
    assert [each.attributes["skunkqueue.attempt"] for each in attempts] == [1, 2]
    assert all(each.status.status_code == StatusCode.ERROR for each in attempts)
    assert attempts[0].events[0].attributes["exception.message"] == "not yet"
    assert len({each.links[0].context.span_id for each in attempts}) == 1


def test_baggage_and_headers_given_by_hand_travel_too(queue: SkunkQueue, spans: Any) -> None:
    @queue.event
    def tenant() -> Any:
        return baggage.get_baggage("tenant")

    token = context.attach(baggage.set_baggage("tenant", "seven"))
    try:
        runs = [tenant.options(headers={"mine": "1"}).fire(), *tenant.fire_many([()])]
    finally:
        context.detach(token)
    drain(queue)

    assert [run.result for run in runs] == ["seven", "seven"]
    assert runs[0].headers["mine"] == "1" and "baggage" in runs[0].headers
    assert baggage.get_baggage("tenant") is None


def test_without_a_provider_nothing_travels_and_the_job_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    with SkunkQueue("demo", "memory://no-otel") as queue:
        instrument(queue)

        @queue.event
        def add(first: int, second: int) -> int:
            return first + second

        run = add.fire(1, 2)
        drain(queue)

        assert (run.result, run.headers) == (3, {})


SCRIPT = """
import json, os, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from skunkqueue import SkunkQueue, WorkerPool
from skunkqueue.otel import instrument

class ToFile(SpanExporter):
    def export(self, spans):
        with open("spans", "a") as file:
            for span in spans:
                links = [f"{link.context.span_id:x}" for link in span.links]
                file.write(json.dumps([span.name, f"{span.context.span_id:x}", links, os.getpid()]) + "\\n")
        return SpanExportResult.SUCCESS

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ToFile()))
trace.set_tracer_provider(provider)
queue = SkunkQueue("demo", "sqlite:///runs.db")
instrument(queue)

@queue.event(name="add")
def add(first, second):
    return first + second

if __name__ == "__main__":
    import traced
    with WorkerPool(traced.queue):
        print(traced.add.fire(1, 2).wait(60))
"""


def test_the_link_leads_from_one_process_to_another(tmp_path: Path) -> None:
    (tmp_path / "traced.py").write_text(SCRIPT)

    said = subprocess.run(
        [sys.executable, "traced.py"], cwd=tmp_path, capture_output=True, text=True, timeout=2 * LIMIT
    )

    assert said.stdout == "3\n", said.stderr
    spans = [json.loads(line) for line in (tmp_path / "spans").read_text().splitlines()]
    create, process = sorted(spans)
    assert (create[0], process[0]) == ("create add", "process add")
    assert process[2] == [create[1]] and process[3] != create[3]
