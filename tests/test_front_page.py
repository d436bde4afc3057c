"""The front page and the settings it recommends, kept true: figures, picture, units, images, grace."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import tomllib
from contextlib import closing
from pathlib import Path

import click
import pytest
from test_docs import PAGES, ROOT, blocks

from skunkqueue.cli.commands import skunq
from skunkqueue.distribution import SOURCE, with_extra
from skunkqueue.persistence.url import get_backend

README = ROOT / "README.md"
RESULTS = ROOT / "bench" / "RESULTS.md"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def measured(peer: str) -> str:
    """All that was measured of a peer on Redis with results kept, as one text."""
    names = (peer, f"{peer}, safe")
    on_redis = RESULTS.read_text().partition("\n## Redis\n")[2].partition("\n## ")[0]
    return "\n".join(line for line in on_redis.splitlines() if line.startswith("|") and cells(line)[0] in names)


def test_the_front_page_fits_in_a_sitting() -> None:
    assert len(README.read_text().splitlines()) <= 220


def test_every_figure_of_the_comparison_was_measured() -> None:
    table = [cells(line) for line in README.read_text().split("\n\n")[3].splitlines()]

    (_, *peers), _, *rows = table
    assert len(rows) == 4
    for what, *figures in rows:
        for peer, figure in zip(peers, figures, strict=True):
            assert re.search(rf"(?<![\d.,]){re.escape(figure)}(?![\d.,])", measured(peer)), (
                f"{what} of {peer}: {figure}"
            )


def test_the_headline_ratio_was_measured() -> None:
    (ratio,) = re.findall(r"ran ([\d.]+) times as many jobs", README.read_text())

    assert f"| drain, one worker / best peer's (Dramatiq, safe) | {ratio} |" in RESULTS.read_text()


def test_the_picture_is_the_one_its_script_draws() -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "picture.py"))["picture"]()

    assert (ROOT / "docs" / "picture.svg").read_text() == drawn


def test_the_first_program_prints_three_in_ten_lines() -> None:
    first = next(part for part in blocks(README) if part.language == "python")

    assert first.text.rstrip().endswith("# 3")
    assert len([line for line in first.text.splitlines() if line]) <= 10


# -- settings of other programs --------------------------------------------------------------------------------------

KILLED = {"ini": r"^TimeoutStopSec=(\d+)$", "yaml": r"^ *terminationGracePeriodSeconds: (\d+)$"}
"""After how many seconds the system kills, by the language of the block."""


def commands(language: str, text: str) -> list[list[str]]:
    """The ``skunq work`` that a block starts, as arguments."""
    if language == "ini":
        return [shlex.split(line)[1:] for line in re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)]
    if language == "dockerfile":
        return [json.loads(line)[1:] for line in re.findall(r"^CMD (.*)$", text, re.MULTILINE)]
    return [re.findall(r"[\w.-]+", line)[1:] for line in re.findall(r"args: \[(.*)\]$", text, re.MULTILINE)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_unit_and_image_starts_workers_that_stop_before_they_are_killed(path: Path) -> None:
    for part in blocks(path):
        for words in commands(part.language, part.text) if part.language in ("ini", "dockerfile", "yaml") else ():
            command = skunq.get_command(click.Context(skunq), words[0])
            assert command is not None and command.name == "work"
            with command.make_context("work", words[1:]) as work:
                assert work.params["grace"] > 0

            if part.language in KILLED:
                (limit,) = re.findall(KILLED[part.language], part.text, re.MULTILINE)
                assert work.params["grace"] + work.params["kill_after"] < float(limit), f"line {part.line}"


def test_the_front_page_and_the_page_on_production_have_settings_of_each_kind() -> None:
    for path in (README, ROOT / "docs" / "production.md"):
        assert {"ini", "dockerfile", "yaml", "text"} <= {part.language for part in blocks(path)}


@pytest.mark.parametrize("path", (README, ROOT / "docs" / "production.md"), ids=lambda path: path.name)
def test_a_redis_with_the_recommended_settings_warns_of_nothing(path: Path) -> None:
    pytest.importorskip("redis")
    from redis_server import RedisServer

    (settings,) = (part.text for part in blocks(path) if part.language == "text")
    options = [word for line in settings.splitlines() for word in ("--" + line.split()[0], line.split()[1])]

    with RedisServer(*options) as server, closing(get_backend(server.url)) as store:
        assert list(store.warnings()) == []


# -- how to install --------------------------------------------------------------------------------------------------


def test_every_command_that_installs_it_names_what_can_be_installed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    possible = {SOURCE, *map(with_extra, extras), *(f"./vendor/skunkqueue[{extra}]" for extra in extras)}

    said = {
        (path.name, named)
        for path in [*PAGES, ROOT / "CHANGELOG.md"]
        for named in re.findall(r"pip install '?([^'`\s]+)", path.read_text())
        if named.startswith(".") or "skunkqueue" in named
    }

    assert len(said) > 8
    assert {(page, named) for page, named in said if named not in possible} == set()


def test_no_message_names_what_cannot_be_installed() -> None:
    package = ROOT / "skunkqueue"
    texts = {path.relative_to(package).as_posix(): path.read_text() for path in package.rglob("*.py")}

    assert [name for name, text in texts.items() if "pip install" in text and "skunkqueue[" in text] == []
    assert "with_extra(" in texts["persistence/url.py"]
