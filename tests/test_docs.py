"""README and docs, kept true: every example in them is run as a reader would run it, every link and option looked up.

The Python blocks of a document are one program, run from top to bottom beside workers; what they print must be what the
comments behind each ``print`` say. Shell blocks are typed line by line, beside the files that the document has one
save; what does not end by itself is stopped with Ctrl-C. A comment before a block says otherwise:
``<!-- file: NAME -->`` saves it, ``<!-- redis -->`` gives it a server, ``<!-- not run: WHY -->`` leaves it out.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner
from pools import until

import skunkqueue
from skunkqueue import SkunkQueue, WorkerPool
from skunkqueue.cli.commands import COMMANDS, skunq
from skunkqueue.options import Given
from skunkqueue.persistence.url import get_backend

ROOT = Path(__file__).parent.parent
DOCS = [ROOT / "README.md", ROOT / "docs" / "stores.md", ROOT / "docs" / "promises.md"]
WORKERS = ("default", "default", "foo", "bar", "news", "news")
LOCAL_REDIS = "redis://localhost:6379/0"
LIMIT = 60.0


class Block(NamedTuple):
    """A fenced block, with the comment that stands before it."""

    language: str
    text: str
    line: int
    comment: str


BLOCK = re.compile(
    r"(?:<!-- (?P<comment>[^\n]*) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


def blocks(path: Path) -> list[Block]:
    text = path.read_text()
    return [
        Block(found["language"], found["text"], text.count("\n", 0, found.start("text")), found["comment"] or "")
        for found in BLOCK.finditer(text)
    ]


def run_blocks(path: Path, language: str) -> list[Block]:
    return [b for b in blocks(path) if b.language == language and not b.comment.startswith(("not run:", "file:"))]


def documents_with(language: str, comment: str = "") -> pytest.MarkDecorator:
    """Parametrizes over the documents that have such blocks."""
    found = [path for path in DOCS if any(b.comment == comment for b in run_blocks(path, language))]
    return pytest.mark.parametrize("path", found, ids=[path.name for path in found])


# -- other processes -------------------------------------------------------------------------------------------------


@contextmanager
def started(folder: Path, *command: str) -> Iterator[Path]:
    """A pool in another terminal, stopped with Ctrl-C, which must end it well; gives its log."""
    log = folder / f"log-{len(list(folder.glob('log-*')))}"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    try:
        until(lambda: "started, process" in log.read_text(), message=f"{command} does not start: {log.read_text()}")
        yield log
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(LIMIT) == 0, log.read_text()
    finally:
        process.kill()
        process.wait(LIMIT)


def execute(folder: Path, *command: str) -> str:
    """A command that must end by itself, and well."""
    said = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * LIMIT
    )
    assert said.returncode == 0, f"{command}:\n{said.stdout}{said.stderr}"
    return said.stdout


def program(name: str) -> str:
    """Where pip put a program."""
    return str(Path(sys.executable).parent / name) if name != "python" else sys.executable


# -- Python ----------------------------------------------------------------------------------------------------------

RUNNER = r"""
import contextlib, io, json, sys

for name, line, text in json.load(open("blocks.json")):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile("\n" * line + text, name, "exec"), globals())
    json.dump(said.getvalue(), sys.stdout)
    print(flush=True)
"""
PRINT = re.compile(r"^\s*print\(.*\) +# (.*)$", re.MULTILINE)


def run_program(path: Path, parts: Sequence[Block], folder: Path) -> None:
    """Run blocks as one script; each must print what the comments in it say."""
    (folder / "blocks.json").write_text(json.dumps([(path.name, part.line, part.text) for part in parts]))
    (folder / "program.py").write_text(RUNNER)
    said = [json.loads(line) for line in execute(folder, sys.executable, "program.py").splitlines()]
    for part, output in zip(parts, said, strict=True):
        expected = PRINT.findall(part.text)
        assert [line.rstrip() for line in output.splitlines()][: len(expected)] == expected, f"line {part.line}"


@documents_with("python")
def test_every_python_example_says_what_its_comments_say(path: Path, tmp_path: Path) -> None:
    parts = [part for part in run_blocks(path, "python") if part.comment != "redis"]

    with started(tmp_path, program("skunq"), "work", "-q", "demo", "-r", *WORKERS):
        queue = SkunkQueue("demo")
        until(lambda: len(queue.alive_on(WORKERS)) == len(WORKERS), LIMIT)
        queue.close()

        run_program(path, parts, tmp_path)


@documents_with("python", "redis")
def test_every_python_example_for_redis_runs_on_one(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    parts = [part for part in run_blocks(path, "python") if part.comment == "redis"]
    server = request.getfixturevalue("shared_redis")
    with server.client() as client:
        client.flushall()
    imports = Block("python", "from skunkqueue import SkunkQueue\n", 0, "")

    run_program(path, [imports, *(p._replace(text=p.text.replace(LOCAL_REDIS, server.url)) for p in parts)], tmp_path)


# -- the shell -------------------------------------------------------------------------------------------------------


@documents_with("sh")
def test_every_command_works_as_printed(path: Path, tmp_path: Path) -> None:
    for part in blocks(path):
        if part.comment.startswith("file:"):
            (tmp_path / part.comment.removeprefix("file:").strip()).write_text(part.text)

    for part in run_blocks(path, "sh"):
        with ExitStack() as stack:
            for line in part.text.splitlines():
                type_in(stack, tmp_path, line.partition("#")[0].split())


def type_in(stack: ExitStack, folder: Path, words: list[str]) -> None:
    """Type one command: wait for its end, or for its start where it works until it is stopped."""
    command = [program(words[0]), *(an_id_for(words[1]) if word == "ID" else word for word in words[1:])]
    if works_on(folder, words):
        stack.enter_context(started(folder, *command))
    else:
        execute(folder, *command)


def works_on(folder: Path, words: Sequence[str]) -> bool:
    """Whether it goes on until somebody stops it."""
    if words[0] == "python":
        return "listen()" in (folder / words[1]).read_text()
    return words[:2] == ["skunq", "work"] and "--burst" not in words


def an_id_for(verb: str) -> str:
    """The ID of a run that the command can do something with."""
    with SkunkQueue("demo") as queue:

        @queue.event(routes=["attic"])
        def example() -> None:
            pass

        run = example.fire()
        if verb == "retry":
            run.cancel()
        return run.id


def test_the_two_scripts_give_nine_and_three(tmp_path: Path) -> None:
    files = [part for part in blocks(ROOT / "README.md") if part.comment.startswith("file:")]
    fires, works = sorted(files, key=lambda part: "listen()" in part.text)
    for part in files:
        (tmp_path / part.comment.removeprefix("file:").strip()).write_text(part.text)

    with started(tmp_path, sys.executable, works.comment.split()[1]) as log:
        assert execute(tmp_path, sys.executable, fires.comment.split()[1]) == "scheduled None\n"

        until(lambda: ": 9\n" in log.read_text() and ": 3\n" in log.read_text())


# -- what is said about the code -------------------------------------------------------------------------------------


def all_text() -> str:
    return "\n".join(path.read_text() for path in DOCS)


def missing(names: Sequence[str]) -> list[str]:
    text = all_text()
    return [name for name in names if f"`{name}`" not in text]


def test_every_option_is_explained() -> None:
    options = [*Given.__annotations__, "unique", "via"]
    for kind in (SkunkQueue, WorkerPool):
        options += list(inspect.signature(kind.__init__).parameters)[2:]

    assert missing(options) == []


def test_every_default_is_the_one_in_the_code() -> None:
    known = {**defaults(SkunkQueue), **defaults(WorkerPool)}
    known.pop("max_payload")  # the queue's and the pool's differ
    rows = re.findall(r"^\| `(\w+)`[^|]*\| `([^`|]+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)

    told = {name: value for name, value in rows if name in known}

    assert told["lease"] == "15"
    assert told == {name: known[name] for name in told}


def defaults(kind: type) -> dict[str, str]:
    parameters = inspect.signature(kind.__init__).parameters
    return {name: repr(p.default).replace("'", '"') for name, p in parameters.items()}


def test_every_option_of_skunq_work_is_explained() -> None:
    said = CliRunner().invoke(skunq, ["work", "--help"]).output

    assert missing(sorted(set(re.findall(r"--[a-z-]+", said)) - {"--help"})) == []


def test_every_command_is_shown() -> None:
    text = all_text()

    assert [name for name in COMMANDS if f"skunq {name}" not in text] == []


def test_every_error_that_is_named_is_there() -> None:
    named = set(re.findall(r"`((?:[A-Z][a-z]+){2,})`", all_text()))
    others = {"SkunkQueue", "Persister", "Backoff", "TimeoutError"}

    assert {name for name in named - others if not hasattr(skunkqueue, name)} == set()


@pytest.mark.parametrize(
    "url", sorted(set(re.findall(r"`((?:memory|sqlite|rediss?(?:\+\w+)?)://[^` ]*)`", all_text())))
)
def test_every_url_can_be_read(url: str) -> None:
    if url.startswith("redis"):
        pytest.importorskip("redis")

    if not url.endswith(("...", "sentinel://", "cluster://")):
        get_backend(url).close()


@pytest.mark.parametrize("path", [*DOCS, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", path.read_text())

    for target, anchor in links:
        found = (path.parent / target).resolve() if target else path
        assert found.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(found), f"{target} has no heading for #{anchor}"


def anchors(path: Path) -> list[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    left_out = [part.comment for path in DOCS for part in blocks(path) if part.comment.startswith("not run:")]

    assert len(left_out) <= 4
    assert all(len(comment) > len("not run: ") for comment in left_out)


def test_every_block_is_of_a_language_that_is_run() -> None:
    assert {part.language for path in DOCS for part in blocks(path)} <= {"python", "sh", "toml"}
