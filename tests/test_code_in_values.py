"""Code in arguments and results: on another version of Python it waits, or is refused with a sentence, never run."""

from __future__ import annotations

import enum
import io
import json
import os
import pickle
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from skunkqueue import JobFailed, PayloadError, Run, SkunkQueue, UnknownJob, codec, function_pickle
from skunkqueue.codec import decode_call, decode_value, encode_call, encode_value
from skunkqueue.envelope import PYTHON, Envelope, Record, State
from skunkqueue.pickling import python_of
from skunkqueue.plan import Carried
from skunkqueue.policy import Backoff
from skunkqueue.spool.reading import Reading
from skunkqueue.testing import drain
from skunkqueue.worker import WorkerPool

OTHER = "3.99"


def in_main(source):
    """What a piece of a script makes, as if it were the script that runs."""
    made = {"__name__": "__main__"}
    exec(textwrap.dedent(source), made)
    return made["made"]


CODE = {
    "lambda": lambda: lambda n: n,
    "closure": lambda: partial(lambda a, b: a, 1),
    "deep inside": lambda: {"a": [(1, {"b": lambda: 1})]},
    "object of a class of a script": lambda: in_main("class C:\n  def m(self): pass\nmade = C()"),
    "class of a script": lambda: in_main("class C:\n  def m(self): pass\nmade = C"),
    "class without any code": lambda: in_main("class C: pass\nmade = C()"),
    "enum of a script": lambda: in_main("import enum\nclass E(enum.Enum):\n  A = 1\nmade = E.A"),
    "dataclass of a script": lambda: in_main("import dataclasses as d\n@d.dataclass\nclass D:\n  a: int\nmade = D(1)"),
    "exception of a script": lambda: in_main("class E(Exception): pass\nmade = E('a')"),
    "job of a script": lambda: in_main(
        "from skunkqueue import SkunkQueue\n@SkunkQueue('q', 'memory://').event\ndef made(): pass"
    ),
}
NO_CODE = {
    "an object of an importable class": lambda: Backoff(3),
    "an importable function": lambda: json.dumps,
    "an importable class": lambda: [Backoff],
    "an enum": lambda: State.FAILED,
    "what only looks like it": lambda: [Backoff(1), "cloudpickle", "3.11\x04", b".3.99\x04"],
    "large": lambda: [Backoff(1), bytes(100_000)],
    "plain": lambda: [1, "a", datetime(2020, 1, 1, tzinfo=UTC)],
    "plain enum class": lambda: enum.Enum,
}


@pytest.fixture
def elsewhere(monkeypatch):
    """What is pickled meanwhile claims to have been pickled by another version."""

    def make(write):
        with monkeypatch.context() as other:
            other.setattr(function_pickle, "PYTHON", OTHER)
            return write()

    return make


@pytest.mark.parametrize("name", CODE)
def test_what_carries_code_says_so_with_its_version_and_is_read_by_it_alone(name, elsewhere, monkeypatch):
    value = CODE[name]()
    call, result = encode_call((value,), {}), encode_value(value)

    assert python_of(call) == python_of(result) == PYTHON
    decode_call(call), decode_value(result)

    monkeypatch.setattr(pickle, "load", lambda file: pytest.fail("it was unpickled"))
    with pytest.raises(UnknownJob, match=rf"code of Python 3\.99 cannot run here on Python {PYTHON}"):
        decode_call(elsewhere(lambda: encode_call((value,), {})))
    with pytest.raises(PayloadError, match=r"the result cannot be read here: code of Python 3\.99"):
        decode_value(elsewhere(lambda: encode_value(value)))


@pytest.mark.parametrize("name", NO_CODE)
def test_what_carries_none_is_read_by_every_version(name, elsewhere):
    value = NO_CODE[name]()

    (back,), _ = decode_call(elsewhere(lambda: encode_call((value,), {})))

    assert back == decode_value(elsewhere(lambda: encode_value(value))) == value


def test_a_run_with_code_of_another_version_waits_for_a_worker_of_that_version(elsewhere):
    with SkunkQueue("versions", "memory://versions") as queue:

        @queue.event
        def call(function):
            return function()

        waiting = elsewhere(lambda: call.fire(lambda: 1))
        here = call.fire(lambda: 2)
        drain(queue)

        assert here.result == 2
        assert (waiting.state, waiting.attempts) == ("scheduled", 0)
        assert waiting.error == f"code of Python {OTHER} cannot run here on Python {PYTHON}"

        waiting.promote()
        with WorkerPool(queue, in_process=True, patience=0, log=io.StringIO()), pytest.raises(JobFailed, match=OTHER):
            waiting.wait(20)


def test_whoever_waits_for_a_result_with_code_of_another_version_gets_a_sentence(elsewhere):
    envelope = Envelope("1", "versions", "default", 1.0, b"")
    value = elsewhere(lambda: encode_value(lambda: 1))
    with SkunkQueue("versions", "memory://versions") as queue:
        run = Run(queue, "1", None, Record(envelope, State.SUCCEEDED, 9e9, value=value))

        assert (run.state, run.result) == ("succeeded", None)
        with pytest.raises(PayloadError, match="the result cannot be read here"):
            run.wait()


def test_a_result_that_needs_a_module_that_is_missing_here_is_a_sentence_too():
    pickled = b"cnowhere_to_be_found\nthing\n."
    signed = codec.PICKLED + codec.default_keys().sign(codec.VALUE, pickled) + pickled

    with pytest.raises(PayloadError, match="nowhere_to_be_found"):
        decode_value(signed)


def other_python():
    """Another version that is installed here, if any; it reads with the pure Python parts of what is installed."""
    finder = Path(__file__).parents[1] / ".ci" / "python"
    for version in ("3.11", "3.12", "3.13"):
        if version != PYTHON and finder.exists():
            found = subprocess.run([finder, version], capture_output=True, text=True)
            if found.returncode == 0:
                return found.stdout.strip()
    return pytest.skip("there is no other Python here")


def test_another_version_really_refuses_it(tmp_path):
    file = tmp_path / "value"
    file.write_bytes(encode_value(lambda n: [i * i for i in range(n)]))
    paths = [path for path in sys.path if "site-packages" in path] + [str(Path(codec.__file__).parents[1])]
    code = (
        f"import sys; sys.path[:0] = {paths!r}\n"
        "from skunkqueue.codec import decode_value\n"
        "from skunkqueue import PayloadError\n"
        f"try: decode_value(open({str(file)!r}, 'rb').read())\n"
        "except PayloadError as error: print(error)\n"
    )
    done = subprocess.run(
        [other_python(), "-c", code], capture_output=True, text=True, env={**os.environ, "MSGPACK_PUREPYTHON": "1"}
    )

    assert done.stdout.startswith(f"the result cannot be read here: code of Python {PYTHON} cannot run"), done.stderr


def test_the_sources_that_stand_behind_a_function_are_not_taken_for_a_version(tmp_path):
    file = tmp_path / "script.py"
    file.write_text("".join(f"def f{n}(data):\n    return {n}\n" for n in range(100)))
    space = {"__name__": "__main__"}
    exec(compile(file.read_text(), file, "exec"), space)
    reading = Reading(-1)

    processors = [reading._unpickle(codec.pickle_function(Carried(space[f"f{n}"], "type"))) for n in range(100)]

    assert [processor({}) for processor in processors] == list(range(100))
