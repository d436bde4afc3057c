"""README and docs, kept true: every example in them is run as a reader would run it, every link and option looked up.

A Python block that makes a queue is a program of its own, run beside workers where the page says so; blocks that make
none go on with the program above. On the pages of ONE_PROGRAM every block does. What is printed must be what the
comments behind each ``print`` say. Shell blocks are typed line by line, beside the files that the document has one
save; what does not end by itself is stopped with Ctrl-C. A comment before a block says otherwise:
``<!-- file: NAME -->`` saves it, ``<!-- redis -->``, ``<!-- mongodb -->`` and ``<!-- fdb -->`` give it a server, and
what has ``<!-- not run: WHY -->`` is left out. Settings of other programs are read in test_front_page.py, the cells of
a notebook are run in test_notebook.py.
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
ELSEWHERE = {
    "cache.md": "test_gearman_docs.py",
    "from_python_gearman.md": "test_gearman_docs.py",
    "gearman.md": "test_gearman_docs.py",
    "sources.md": "test_sources.py",
    "spool.md": "test_spool_hermes.py",
}
"""Pages whose examples have a test of their own."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCS = [path for path in PAGES if path.name not in ELSEWHERE]
SETTINGS = ("ini", "dockerfile", "yaml", "text")
ONE_PROGRAM = ("stores.md",)
WORKERS = ("default", "default", "foo", "bar", "news", "news")
LOCAL_REDIS = "redis://localhost:6379/0"
LOCAL_MONGODB = "mongodb://localhost:27017/skunkqueue"
LOCAL_FDB = "fdb:///etc/foundationdb/fdb.cluster"
STARTED = ("started, process", "serving http://")
LIMIT = 60.0
QUEUE = "demo"


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
        until(
            lambda: any(said in log.read_text() for said in STARTED),
            message=f"{command} does not start: {log.read_text()}",
        )
        yield log
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(LIMIT) == 0, log.read_text()
    finally:
        process.kill()
        process.wait(LIMIT)


def execute(folder: Path, *command: str, codes: Sequence[int] = (0,)) -> str:
    """A command that must end by itself, and well."""
    said = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * LIMIT
    )
    assert said.returncode in codes, f"{command}:\n{said.stdout}{said.stderr}"
    return said.stdout


def program(name: str) -> str:
    """Where pip put a program."""
    return str(Path(sys.executable).parent / name) if name != "python" else sys.executable


# -- Python ----------------------------------------------------------------------------------------------------------

RUNNER = r"""
import contextlib, io, json, sys

apart, parts = json.load(open("blocks.json"))
names = globals()
for name, line, text in parts:
    if apart and "SkunkQueue(" in text:
        names = {"__name__": "__main__"}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile("\n" * line + text, name, "exec"), names)
    json.dump(said.getvalue(), sys.stdout)
    print(flush=True)
"""
PRINT = re.compile(r"^\s*print\(.*\) +# (.*)$", re.MULTILINE)


def run_program(path: Path, parts: Sequence[Block], folder: Path, *, apart: bool = False) -> None:
    """Run blocks as one script, or apart where they make a queue; each must print what the comments in it say."""
    (folder / "blocks.json").write_text(json.dumps([apart, [(path.name, part.line, part.text) for part in parts]]))
    (folder / "program.py").write_text(RUNNER)
    said = [json.loads(line) for line in execute(folder, sys.executable, "program.py").splitlines()]
    for part, output in zip(parts, said, strict=True):
        expected = PRINT.findall(part.text)
        assert [line.rstrip() for line in output.splitlines()][: len(expected)] == expected, f"line {part.line}"


@documents_with("python")
def test_every_python_example_says_what_its_comments_say(path: Path, tmp_path: Path) -> None:
    parts = [part for part in run_blocks(path, "python") if part.comment not in ("redis", "mongodb", "fdb")]

    save_files(path, tmp_path)

    with workers_beside(path, tmp_path):
        run_program(path, parts, tmp_path, apart=path.name not in ONE_PROGRAM)


@contextmanager
def workers_beside(path: Path, folder: Path) -> Iterator[None]:
    """The workers that a page tells its readers to start: on the routes of all pages, or as its own command says."""
    typed = "\n".join(part.text for part in run_blocks(path, "sh")).splitlines()
    own = [line for line in typed if re.match(rf"skunq work -q (?!{QUEUE}\b)(?!.*--burst)", line)]
    with ExitStack() as stack:
        if own:
            stack.enter_context(started(folder, program("skunq"), *own[0].split()[1:]))
        elif f"skunq work -q {QUEUE}" in path.read_text():
            stack.enter_context(started(folder, program("skunq"), "work", "-q", QUEUE, "-r", *WORKERS))
            with SkunkQueue(QUEUE) as queue:
                until(lambda: len(queue.alive_on(WORKERS)) == len(WORKERS), LIMIT)
        yield


def save_files(path: Path, folder: Path) -> None:
    """Save what a document has one save."""
    for part in blocks(path):
        if part.comment.startswith("file:"):
            file = folder / part.comment.removeprefix("file:").strip()
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(part.text)


@documents_with("python", "redis")
def test_every_python_example_for_redis_runs_on_one(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    parts = [part for part in run_blocks(path, "python") if part.comment == "redis"]
    server = request.getfixturevalue("shared_redis")
    with server.client() as client:
        client.flushall()
    imports = Block("python", "from skunkqueue import SkunkQueue\n", 0, "")

    run_program(path, [imports, *(p._replace(text=p.text.replace(LOCAL_REDIS, server.url)) for p in parts)], tmp_path)


@documents_with("python", "mongodb")
def test_every_python_example_for_mongodb_runs_on_one(
    path: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("shared_mongodb")
    from mongo_servers import client_of, fresh_url

    mine = fresh_url(url)
    parts = [part for part in run_blocks(path, "python") if part.comment == "mongodb"]
    imports = Block("python", "from skunkqueue import SkunkQueue\n", 0, "")

    run_program(path, [imports, *(p._replace(text=p.text.replace(LOCAL_MONGODB, mine)) for p in parts)], tmp_path)

    with client_of(mine) as client:
        client.drop_database(client.get_default_database())


@documents_with("python", "fdb")
def test_every_python_example_for_foundationdb_runs_on_one(
    path: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    file = request.getfixturevalue("shared_fdb")
    from fdb_servers import drop, fresh_name

    name = fresh_name()
    parts = [part for part in run_blocks(path, "python") if part.comment == "fdb"]
    imports = Block("python", "from skunkqueue import SkunkQueue\n", 0, "")

    mine = f"fdb://{file}?prefix={name}"
    run_program(path, [imports, *(p._replace(text=p.text.replace(LOCAL_FDB, mine)) for p in parts)], tmp_path)

    drop(file, name)


# -- the shell -------------------------------------------------------------------------------------------------------


@documents_with("sh")
def test_every_command_works_as_printed(path: Path, tmp_path: Path) -> None:
    save_files(path, tmp_path)
    an_id_for("show")  # a file in which nothing was fired yet is not there

    for part in run_blocks(path, "sh"):
        with ExitStack() as stack:
            for line in part.text.splitlines():
                type_in(stack, tmp_path, line.partition("#")[0].split())


def type_in(stack: ExitStack, folder: Path, words: list[str]) -> None:
    """Type one command: wait for its end, or for its start where it works until it is stopped."""
    words = [word.replace(":9191", ":0") for word in words]  # which somebody else may have
    command = [program(words[0]), *(an_id_for(words[1]) if word == "ID" else word for word in words[1:])]
    if works_on(folder, words):
        stack.enter_context(started(folder, *command))
        if "work" in words:  # it says that it starts before the store knows of its workers
            until(lambda: execute(folder, program("skunq"), "workers", codes=(0, 1)))
    else:
        execute(folder, *command, codes=(0, 1) if words[1] == "workers" else (0,))  # 1: none is alive


def works_on(folder: Path, words: Sequence[str]) -> bool:
    """Whether it goes on until somebody stops it."""
    if words[0] == "python":
        return "listen()" in (folder / words[1]).read_text()
    return words[:2] in (["skunq", "work"], ["skunq", "metrics"]) and "--burst" not in words


def an_id_for(verb: str) -> str:
    """The ID of a run that the command can do something with."""
    with SkunkQueue("demo") as queue:

        @queue.event(routes=["attic"])
        def example() -> None:
            pass

        run = example.fire_at(60) if verb == "promote" else example.fire()
        if verb in ("retry", "delete"):
            run.cancel()
        return run.id


def test_the_two_scripts_give_nine_and_three(tmp_path: Path) -> None:
    files = [part for part in blocks(ROOT / "docs" / "start.md") if part.comment.startswith("file:")]
    fires, works = sorted(files, key=lambda part: "listen()" in part.text)
    save_files(ROOT / "docs" / "start.md", tmp_path)

    with started(tmp_path, sys.executable, works.comment.split()[1]) as log:
        printed = execute(tmp_path, sys.executable, fires.comment.split()[1]).splitlines()
        assert printed[0] == "scheduled None"
        assert printed[-2:] == ["3", "succeeded 3 None"]

        until(lambda: ": 9\n" in log.read_text() and ": 3\n" in log.read_text())


# -- what is said about the code -------------------------------------------------------------------------------------


def all_text() -> str:
    return "\n".join(path.read_text() for path in DOCS)


def missing(names: Sequence[str]) -> list[str]:
    text = all_text()
    return [name for name in names if f"`{name}`" not in text]


def test_every_option_is_explained() -> None:
    options = [*Given.__annotations__, "unique", "via", "headers"]
    for kind in (SkunkQueue, WorkerPool):
        options += list(inspect.signature(kind.__init__).parameters)[2:]

    assert missing(options) == []


def test_every_default_is_the_one_in_the_code() -> None:
    known = {**defaults(SkunkQueue), **defaults(WorkerPool)}
    known.pop("max_payload")  # the queue's and the pool's differ
    rows = re.findall(r"^\| `(\w+)`[^|]*\| `([^`|]+)` \|", (ROOT / "docs" / "options.md").read_text(), re.MULTILINE)

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
    text = "\n".join(path.read_text() for path in PAGES)

    assert [name for name in COMMANDS if f"skunq {name}" not in text] == []


def test_every_error_that_is_named_is_there() -> None:
    ours = "\n".join(path.read_text() for path in DOCS if not path.name.startswith("from_"))
    named = set(re.findall(r"`((?:[A-Z][a-z]+){2,})`", ours))
    others = {"SkunkQueue", "Persister", "Backoff", "TimeoutError", "RuntimeError"}

    assert {name for name in named - others if not hasattr(skunkqueue, name)} == set()


@pytest.mark.parametrize(
    "url", sorted(set(re.findall(r"`((?:memory|sqlite|mongodb|rediss?(?:\+\w+)?)://[^` ]*)`", all_text())))
)
def test_every_url_can_be_read(url: str) -> None:
    if url.startswith("redis"):
        pytest.importorskip("redis")
    if url.startswith("mongodb"):
        pytest.importorskip("pymongo")

    if not url.endswith(("...", "sentinel://", "cluster://")):
        get_backend(url).close()


@pytest.mark.parametrize("path", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", prose)

    for target, anchor in links:
        found = (path.parent / target).resolve() if target else path
        assert found.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(found), f"{target} has no heading for #{anchor}"


def anchors(path: Path) -> list[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    left_out = [part.comment for path in DOCS for part in blocks(path) if part.comment.startswith("not run:")]

    assert len(left_out) <= 10
    assert all(len(comment) > len("not run: ") for comment in left_out)


def test_every_block_is_of_a_language_that_is_run() -> None:
    assert {part.language for path in DOCS for part in blocks(path)} <= {"python", "sh", "toml", *SETTINGS}
