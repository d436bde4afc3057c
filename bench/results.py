"""``bench/RESULTS.md``: the last figures of each part, with the conditions they were seen under."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bench.conditions import machine
from bench.table import Part

FILE = Path(__file__).parent / "RESULTS.md"
HEAD = """# What was measured

Made by `python -m bench` (`make bench`). Machines differ by a factor of three from day to day, and a shared one from
minute to minute, so every figure is a ratio against something measured in the same run, in alternating rounds;
absolute figures say only what the ratios are made of.
"""


def keep(parts: Sequence[Part]) -> None:
    """Write these parts; the others stay as they were."""
    sections = _sections(FILE.read_text() if FILE.exists() else "")
    for part in parts:
        part.conditions[:0] = machine()
        sections[part.name] = part.markdown().strip()
    FILE.write_text("\n\n".join([HEAD.strip(), *(sections[name] for name in sorted(sections, reverse=True))]) + "\n")


def _sections(text: str) -> dict[str, str]:
    found = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return {each.splitlines()[0].removeprefix("## "): each.strip() for each in found}
