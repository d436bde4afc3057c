"""What the pages show of skunq, kept true: it is what their script makes of a run today."""

from __future__ import annotations

import runpy

import pytest
from test_docs import ROOT

SCRIPT = runpy.run_path(str(ROOT / "docs" / "screens.py"), run_name="screens")


@pytest.fixture(scope="module")
def drawn():
    return SCRIPT["pages"]()


def test_the_pages_show_what_the_commands_print_today(drawn) -> None:
    for page, text in drawn.items():
        assert page.read_text() == text, f"{page.name} shows something else: python docs/screens.py"


def test_runs_show_top_and_errors_are_shown_and_their_tables_fit_80_columns(drawn) -> None:
    found = [screen for text in drawn.values() for screen in SCRIPT["SCREEN"].finditer(text)]
    tables = [screen for screen in found if " show " not in screen["command"]]

    assert {screen["command"].split()[1] for screen in found} >= {"runs", "show", "top", "errors"}
    lines = [line for screen in tables for line in screen["text"].splitlines() if not line.startswith("queue shop of ")]
    assert max(map(len, lines)) <= 80
    assert all("EXAMPLE" in screen["text"] for screen in tables if " errors " in screen["command"])
