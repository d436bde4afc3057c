"""The manual as a site: every page has its place, every link leads to a page of it, and llms.txt says what each is."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from test_docs import ROOT, anchors


@pytest.fixture(scope="module")
def build() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "build.py"))


@pytest.fixture
def source(build: dict[str, Any], tmp_path: Path) -> Path:
    """What Sphinx reads."""
    build["gather"](tmp_path / "source")
    return tmp_path / "source"


def test_every_page_stands_under_a_heading_once(build: dict[str, Any], source: Path) -> None:
    placed = [name for pages in build["headings"](source).values() for name in pages]

    assert sorted(placed) == sorted(
        path.stem for path in [*source.glob("*.md"), *source.glob("*.rst")] if path.stem != "index"
    )


def test_every_link_leads_to_something_in_the_site(source: Path) -> None:
    links = [
        (page, *found)
        for page in source.glob("*.md")
        for found in re.findall(r"\]\((?!https?:)([\w./-]+\.\w+|LICENSE)(?:#([\w-]+))?\)", page.read_text())
    ]

    assert len(links) > 50
    for page, target, anchor in links:
        assert (source / target).exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(source / target), f"{page.name}: {target}#{anchor}"


def test_llms_txt_has_a_sentence_about_every_page(build: dict[str, Any], source: Path) -> None:
    lines = build["llms"](source).splitlines()

    pages = [line for line in lines if line.startswith("- ")]
    assert len(pages) == len(list(source.glob("*.md"))) - 1
    assert all(re.fullmatch(r"- \[.+\]\([\w-]+\.md\): \w.{10,}|.*`.*", line) for line in pages), pages
    assert lines[:3] == ["# SkunkQueue", "", lines[2]] and lines[2].startswith("> Task scheduling for humans")
