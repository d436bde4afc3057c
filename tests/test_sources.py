"""What a source of another kind uses of the pool: a small public seam, and nothing behind it."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from pathlib import Path

import pytest
from pools import LIMIT, until
from test_docs import blocks, run_blocks, run_program

from skunkqueue import SkunkError, WrongCall
from skunkqueue import worker as seam
from skunkqueue.clock import Clock
from skunkqueue.codec import decode_value, encode_call
from skunkqueue.envelope import Claim, Envelope, Seal, pack_body, pack_head
from skunkqueue.ids import new_id
from skunkqueue.job import Carried
from skunkqueue.persistence import Source
from skunkqueue.worker import Hook, Log, Pool, Settings, ShownResult, pool_name, shared_bytes

DOC = Path(__file__).parent.parent / "docs" / "sources.md"


class Numbers(Source):
    """Numbers to be given to a job called ``job``, each once."""

    url = "numbers:"

    def __init__(self, count):
        self.waiting = [(number, b"") for number in range(count)]
        self.held = {}
        self.done = []

    def claim(self, wants, *, now, until):
        return [self._take(want, now, until) for want in wants for _ in range(min(want.limit, len(self.waiting)))]

    def _take(self, want, now, until):
        id, (number, notes) = new_id(now), self.waiting.pop(0)
        self.held[id] = number
        body = pack_body(pack_head("job", "", Seal()), b"", encode_call((number,), {}))
        return Claim(Envelope(id, want.queue, want.queue, now, body), want.token, want.worker, until, 0, notes)

    def extend(self, claims, *, until):
        return {claim.id for claim in claims}

    def commit(self, outcomes, *, now):
        for claim, outcome in outcomes:
            if outcome.kind in ("complete", "failed"):
                self.done.append(decode_value(outcome.value) if outcome.kind == "complete" else outcome.error)
            elif outcome.kind not in ("started", "progress"):
                self.waiting.append((self.held[claim.id], outcome.notes or b""))
        return {claim.id for claim, _ in outcomes}


def pool_of(source, log=None, **options):
    settings = Settings(pool_name(), "numbers", ("numbers",), **options)
    return Pool(source, Clock(source.offset), settings, Log(log or io.StringIO()))


# What worker processes import by this module's name.


def jobs(data, fds):
    given = json.loads(data)

    def job(number):
        if given.get("kill") == number:
            os.kill(os.getpid(), signal.SIGKILL)
        told = os.pread(fds[0], 100, 0).decode() if fds else ""
        return ShownResult([number, os.getpid(), told], f"was\n{number}")

    return {"job": Carried(job, "job")}


def broken(data, fds):
    raise LookupError("no such service")


def test_a_hook_gives_worker_processes_their_jobs_with_data_and_inherited_descriptors():
    fd = shared_bytes(0)
    os.pwrite(fd, b"behind the descriptor", 0)
    source, log = Numbers(5), io.StringIO()

    pool_of(source, log, hook=Hook(f"{__name__}:jobs", b"{}", (fd,))).run_until_idle()

    assert sorted(number for number, _, _ in source.done) == [*range(5)]
    assert {told for _, _, told in source.done} == {"behind the descriptor"}
    assert os.getpid() not in {pid for _, pid, _ in source.done}
    assert all(f" ms: was\\n{n}\n" in log.getvalue() for n in range(5))
    os.close(fd)


def test_a_job_of_a_hook_that_kills_its_worker_costs_only_that_run():
    source = Numbers(4)

    pool_of(source, hook=Hook(f"{__name__}:jobs", b'{"kill": 2}')).run_until_idle()

    assert sorted(done[0] for done in source.done if isinstance(done, list)) == [0, 1, 3]
    assert [done for done in source.done if isinstance(done, str)] != []


@pytest.mark.parametrize("function", ["no_such_module:jobs", f"{__name__}:nothing", f"{__name__}:broken"])
def test_a_hook_that_fails_ends_the_pool_with_a_sentence(function):
    with pytest.raises(SkunkError, match=rf"^cannot call {function}: \w+: .*(no_such_module|nothing|no such service)"):
        pool_of(Numbers(1), hook=Hook(function)).run_until_idle()


def test_a_hooks_data_is_small():
    with pytest.raises(WrongCall, match="at most 65,536 bytes"):
        Hook("module:jobs", bytes(65_537))


def test_jobs_for_workers_in_this_process_are_handed_over_as_they_are():
    source = Numbers(3)

    known = {"job": Carried(lambda number: ShownResult(-number, "shown"), "job")}
    pool_of(source, in_process=True, jobs=known).run_until_idle()

    assert sorted(source.done) == [-2, -1, 0]


def test_a_pool_can_be_waited_for_and_tells_once_what_ended_it():
    pool = pool_of(Numbers(1), hook=Hook("no_such_module:jobs"))
    pool.start()

    pool.join()

    assert not pool.running
    with pytest.raises(SkunkError, match="no_such_module"):
        pool.raise_failure()
    pool.raise_failure()


def test_a_program_that_catches_signals_hands_them_to_the_pool():
    begun, gate = threading.Event(), threading.Event()

    def job(number):
        begun.set()
        gate.wait(LIMIT)
        return number

    source = Numbers(1)
    pool = pool_of(source, in_process=True, jobs={"job": Carried(job, "job")})
    pool.start()
    assert begun.wait(LIMIT)

    pool.on_signal(signal.SIGTERM, None)
    gate.set()
    until(lambda: not pool.running)

    pool.join()
    assert source.done == [0]


def test_a_source_may_call_its_runs_by_names_of_its_own_or_keep_silent():
    stream = io.StringIO()
    log = Log(stream, rewrite=lambda entry: None if entry.what == "took" else entry._replace(subject="number"))
    source = Numbers(1)
    settings = Settings(pool_name(), "numbers", ("numbers",), in_process=True, jobs={"job": Carried(abs, "job")})

    Pool(source, Clock(source.offset), settings, log).run_until_idle()

    assert " finished number job in " in stream.getvalue() and " took " not in stream.getvalue()


def test_every_name_of_the_seam_is_there_and_told_of():
    text = DOC.read_text()

    assert all(getattr(seam, name) is not None for name in seam.__all__)
    assert [name for name in seam.__all__ if f"`{name}" not in text] == []


def test_the_example_works(tmp_path):
    for part in blocks(DOC):
        if part.comment.startswith("file:"):
            (tmp_path / part.comment.removeprefix("file:").strip()).write_text(part.text)

    run_program(DOC, run_blocks(DOC, "python"), tmp_path)
