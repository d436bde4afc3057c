"""docs/gearman.md, kept true: its files are started beside a real job_server, and its clients print what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gearman_servers import Gearmand
from pools import LIMIT
from test_docs import ROOT, blocks, run_blocks, run_program

DOCUMENT = ROOT / "docs" / "gearman.md"
COMING = ROOT / "docs" / "from_python_gearman.md"
CACHE = ROOT / "docs" / "cache.md"
LOCAL = "localhost:4730"


def test_every_example_does_what_it_says(job_server: Gearmand, tmp_path: Path) -> None:
    for part in blocks(DOCUMENT):
        if part.comment.startswith("file:"):
            name = part.comment.removeprefix("file:").strip()
            (tmp_path / name).write_text(part.text.replace(LOCAL, job_server.server))
    parts = [part._replace(text=part.text.replace(LOCAL, job_server.server)) for part in run_blocks(DOCUMENT, "python")]

    for script in ("workers.py", "commands.py"):
        process = subprocess.Popen([sys.executable, script], cwd=tmp_path, stdin=subprocess.DEVNULL)
        try:
            run_program(
                DOCUMENT,
                [part for part in parts if (part.comment == "commands") == (script == "commands.py")],
                tmp_path,
            )
            if script == "workers.py":
                process.terminate()
            assert process.wait(LIMIT) == 0
        finally:
            process.kill()
            process.wait(LIMIT)


def test_what_those_who_come_from_python_gearman_read_is_true(job_server: Gearmand, tmp_path: Path) -> None:
    (workers,) = (part for part in blocks(DOCUMENT) if part.comment == "file: workers.py")
    (tmp_path / "workers.py").write_text(workers.text.replace(LOCAL, job_server.server))
    parts = [part._replace(text=part.text.replace(LOCAL, job_server.server)) for part in run_blocks(COMING, "python")]
    process = subprocess.Popen([sys.executable, "workers.py"], cwd=tmp_path, stdin=subprocess.DEVNULL)
    try:
        run_program(COMING, parts, tmp_path)
    finally:
        process.kill()
        process.wait(LIMIT)


def test_the_cache_does_what_its_page_says(tmp_path: Path) -> None:
    run_program(CACHE, run_blocks(CACHE, "python"), tmp_path)
