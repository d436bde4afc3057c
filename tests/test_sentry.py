"""The recipe for Sentry, with a transport that keeps what would be sent."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from test_docs import ROOT, blocks

from skunkqueue.schedules.registry import registry
from skunkqueue.testing import drain

SENT: list[dict[str, Any]] = []


class Kept(Transport):
    """Sends nothing, and keeps all events."""

    def capture_envelope(self, envelope: Envelope) -> None:
        SENT.extend(event for item in envelope.items if (event := item.get_event()) is not None)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The recipe as it is printed."""
    (code,) = [part.text for part in blocks(ROOT / "docs" / "sentry.md") if part.comment == "file: watched.py"]
    (tmp_path / "watched.py").write_text(code)
    init = sentry_sdk.init
    monkeypatch.setattr(sentry_sdk, "init", lambda **given: init(**given, transport=Kept, default_integrations=False))
    monkeypatch.setenv("SENTRY_DSN", "https://key@sentry.invalid/1")
    monkeypatch.setenv("SKUNKQUEUE_URL", "memory://sentry")
    SENT.clear()
    made = runpy.run_path(str(tmp_path / "watched.py"), run_name="watched")
    yield made
    made["queue"].store.clear()
    registry.handlers.clear()
    init(dsn=None, default_integrations=False)


def test_each_attempt_that_raises_is_told_and_the_end_once(watched: dict[str, Any]) -> None:
    run = watched["divide"].fire(1, 0)
    well = watched["divide"].fire(1, 1)

    drain(watched["queue"])

    first, second, last = SENT
    assert (run.state, well.state) == ("failed", "succeeded")
    for attempt, event in enumerate((first, second), 1):
        (raised,) = event["exception"]["values"]
        assert (raised["type"], event["tags"]["job"]) == ("ZeroDivisionError", "divide")
        assert event["contexts"]["run"] == {"id": run.id, "attempt": attempt}
    assert (last["message"], last["level"]) == (f"{run.job} failed for good: {run.error}", "error")
