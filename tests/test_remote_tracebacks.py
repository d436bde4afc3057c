"""Functions of scripts that fail on a worker: their tracebacks name the script, the line and its text."""

from __future__ import annotations

import linecache
import subprocess
import sys
import textwrap

import cloudpickle
import pytest

from skunkqueue import SkunkQueue, codec, function_pickle
from skunkqueue.envelope import PYTHON
from skunkqueue.errors import JobFailed
from skunkqueue.plan import Carried
from skunkqueue.worker.child.execute import describe

SCRIPT = """
import functools
from skunkqueue import SkunkQueue

queue = SkunkQueue("demo", URL)

def helper(x):
    return 1 / x  # divides

def wrapped(function):
    @functools.wraps(function)
    def wrapper(x):
        return function(x)  # wraps
    return wrapper

@queue.event(routes=["foo"])
@wrapped
def job(x):
    again = lambda y: helper(y)  # a lambda
    def nested(z):
        return again(z)  # nested
    return nested(x)  # calls

@queue.event(routes=["foo"])
async def awaited(x):
    return helper(x)  # awaits

job.fire(0)
awaited.fire(0)
"""

PARTS = [
    (8, "helper", "return 1 / x  # divides"),
    (13, "wrapper", "return function(x)  # wraps"),
    (19, "<lambda>", "again = lambda y: helper(y)  # a lambda"),
    (21, "nested", "return again(z)  # nested"),
    (22, "job", "return nested(x)  # calls"),
]


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def failure(run):
    with pytest.raises(JobFailed) as caught:
        run.wait(0)
    return caught.value


def fails_on_a_worker(tmp_path, between):
    """Fire from a script, do something to the script, have a worker process run it; the log and the errors."""
    url, script = f"sqlite:///{tmp_path}/store.db", tmp_path / "script.py"
    script.write_text(SCRIPT.replace("URL", repr(url)))
    run(sys.executable, str(script))
    between(script)
    log = run(sys.executable, "-m", "skunkqueue.cli", "work", "-q", "demo", "-r", "foo", "--burst", "--url", url)
    runs = SkunkQueue("demo", url).runs(state="failed")
    return script, log, "".join(failure(failed).traceback for failed in runs)


@pytest.mark.parametrize(
    "between",
    [
        lambda script: None,
        lambda script: script.unlink(),
        lambda script: script.write_text("# another version\n" * 40),
        lambda script: script.write_text(""),
    ],
    ids=["there", "not there", "other", "empty"],
)
def test_a_traceback_of_a_script_reads_as_it_would_there(tmp_path, between):
    script, log, tracebacks = fails_on_a_worker(tmp_path, between)

    for line, name, text in PARTS:
        wanted = f'  File "{script}", line {line}, in {name}\n    {text}\n'
        assert wanted in tracebacks
        assert textwrap.indent(wanted, "    ") in log
    assert f'  File "{script}", line 26, in awaited\n    return helper(x)  # awaits\n' in tracebacks
    assert "dynamic-code" not in log and "another version" not in log


def load(name, text):
    """The functions of a piece of code as a script, a notebook or a REPL has it."""
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    space = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), space)
    return space


def sent(function):
    """The function as it is on a worker that has none of its files."""
    found, sources = codec.unpickle_function(codec.pickle_function(Carried(function, "job")))
    found.sources = sources
    return found


def traceback_of(carried, *args):
    class Call:
        job = carried

    try:
        carried.function(*args)
    except Exception as error:
        return describe(error, Call, 1).traceback
    raise AssertionError("it did not fail")


@pytest.mark.parametrize("name", ["<ipython-input-3-abc>", "/tmp/ipykernel_12/345.py", "<python-input-0>", "gone.py"])
def test_code_that_only_linecache_knows_shows_its_lines(name):
    function = load(name, "\n\ndef fails():\n    raise ValueError('no')  # here\n")["fails"]
    carried = sent(function)
    del linecache.cache[name]

    assert f"File \"{name}\", line 4, in fails\n    raise ValueError('no')  # here\n" in traceback_of(carried)
    assert name not in linecache.cache, "what others see in this process stays as it was"


def test_two_versions_of_one_file_show_each_its_own_lines():
    first = sent(load("<cell>", "def fails():\n    raise ValueError  # first\n")["fails"])
    second = sent(load("<cell>", "def fails():\n    raise ValueError  # second\n")["fails"])

    assert "# first" in traceback_of(first)
    assert "# second" in traceback_of(second)
    assert "# first" in traceback_of(first)
    assert "second" in linecache.cache["<cell>"][2][1]


def test_without_any_source_the_file_and_the_line_are_told():
    space = {"__name__": "__main__"}
    exec(compile("\ndef fails():\n    raise ValueError\n", "<stdin>", "exec"), space)

    text = traceback_of(sent(space["fails"]))

    assert 'File "<stdin>", line 3, in fails\nValueError' in text


def test_a_function_too_long_to_carry_its_source_costs_its_neighbours_nothing():
    body = "    x = 'a line of text'\n" * 2000
    space = load("<long>", f"def short():\n    raise ValueError  # short\ndef long():\n{body}    short()\n")
    code = codec.pickle_function(Carried(space["long"], "job"))
    carried = sent(space["long"])
    del linecache.cache["<long>"]

    text = traceback_of(carried)

    assert len(code) < len(cloudpickle.dumps(Carried(space["long"], "job"))) + 1000
    assert 'line 2004, in long\n  File "<long>", line 2, in short\n    raise ValueError  # short\n' in text


def test_the_same_function_is_the_same_bytes_whatever_happens_to_its_file(tmp_path):
    script = tmp_path / "some.py"
    script.write_text("def outer(x):\n    def inner():\n        return x\n    return inner\n")
    space = {"__name__": "__main__", "__file__": str(script)}
    exec(compile(script.read_text(), str(script), "exec"), space)
    carried = Carried(space["outer"](1), "job")

    before = codec.pickle_function(carried)
    script.write_text("# changed\n")
    linecache.checkcache()

    assert codec.pickle_function(carried) == before
    assert codec.pickle_function(Carried(space["outer"](1), "job")) == before


def test_every_process_makes_the_same_bytes_of_a_script(tmp_path):
    script = tmp_path / "script.py"
    made = "from skunkqueue.plan import Carried\nfrom skunkqueue.codec import pickle_function\nimport hashlib\n"
    made += "def job(x):\n    return [y for y in x]\n"
    made += "print(hashlib.sha256(pickle_function(Carried(job, 'job'))).hexdigest())\n"
    script.write_text(made)

    assert len({run(sys.executable, str(script)) for _ in range(3)}) == 1


def test_the_memory_for_sources_is_bounded(monkeypatch):
    monkeypatch.setattr(function_pickle, "_packed", {})
    for number in range(function_pickle.MOST_KEPT + 10):
        codec.pickle_function(load("<one>", f"def job():\n    return {number}\n")["job"])

    assert len(function_pickle._packed) <= function_pickle.MOST_KEPT


def test_what_is_not_a_job_carries_no_source():
    space = load("<argument>", "def key(x):\n    return x  # a comment\n")

    with_source, without = codec.pickle_function(space["key"]), codec.encode_call((space["key"],), {})[1:]

    assert codec.unpickle_function(with_source)[1]
    assert codec.unpickle_function(without)[1] == PYTHON.encode() + bytes([len(PYTHON)])


@pytest.mark.parametrize("renamed", [True, False], ids=["<dynamic-code>", "as it is"])
def test_the_file_name_stays_whatever_cloudpickle_makes_of_it(monkeypatch, renamed):
    reduce = function_pickle._reduce_code

    def older_or_newer(code):
        make, args = reduce(code)
        return make, (*args[:10], "<dynamic-code>" if renamed else code.co_filename, *args[11:])

    monkeypatch.setattr(function_pickle, "_reduce_code", older_or_newer)
    function = load("<kept>", "def job():\n    return lambda: 1\n")["job"]

    back = sent(function).function

    assert (back.__code__.co_filename, back().__code__.co_filename) == ("<kept>", "<kept>")
