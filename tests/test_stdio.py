"""What a job does to the standard streams of its worker, no later job notices; and where nobody reads, none fails."""

from __future__ import annotations

import os

import pytest
import stdio_jobs
from pools import LIMIT, PoolProcess, until

from skunkqueue import JobFailed, SkunkQueue


@pytest.fixture
def queue(tmp_path):
    queue = SkunkQueue("demo", f"sqlite:///{tmp_path}/runs.db")
    yield queue
    queue.close()


@pytest.mark.parametrize("concurrency", [1, 3])
def test_what_a_job_does_to_the_standard_streams_the_next_does_not_notice(queue, tmp_path, concurrency):
    use = queue.event(stdio_jobs.use)

    with PoolProcess(tmp_path, queue.url, "default", concurrency=concurrency) as pool:
        for offence in stdio_jobs.OFFENCES:
            run = queue.event(offence).fire()
            until(lambda run=run: run.state in ("succeeded", "failed"))
            assert run.attempts == 1
            word = offence.__name__
            assert use.fire(word).wait(LIMIT) is None, word
            for how in ("printed", "complained", "child printed", "child complained"):
                pool.said(f"\n{how} {word}\n", limit=5)


def test_amid_a_stream_of_short_runs_no_print_fails(queue, tmp_path):
    say, spoil = queue.event(stdio_jobs.say), queue.event(stdio_jobs.close_all)
    spoilers, runs = [], []
    for n in range(10):
        spoilers.append(spoil.fire())
        runs += say.fire_many([(f"{n}-{i}",) for i in range(20)])

    with PoolProcess(tmp_path, queue.url, "default") as pool:
        assert [run.wait(LIMIT) for run in runs] == [f"{n}-{i}" for n in range(10) for i in range(20)]
        pool.said("\nprinted 9-19\n")


@pytest.mark.parametrize("concurrency", [1, 3])
def test_jobs_that_print_where_nobody_reads_do_not_fail(queue, tmp_path, concurrency):
    reader, writer = os.pipe()
    say = queue.event(stdio_jobs.say)
    with PoolProcess(tmp_path, queue.url, "default", concurrency=concurrency, both=writer):
        os.close(writer)
        assert say.fire("before").wait(LIMIT) == "before"
        os.close(reader)

        assert [say.fire(n).wait(LIMIT) for n in range(5)] == [0, 1, 2, 3, 4]


def test_what_an_async_job_redirects_the_next_async_job_does_not_notice(queue, tmp_path):
    redirect, kinds = queue.event(stdio_jobs.redirect_in_a_coroutine), queue.event(stdio_jobs.kinds)

    with PoolProcess(tmp_path, queue.url, "default"):
        usual = kinds.fire().wait(LIMIT)
        redirect.fire().wait(LIMIT)  # from the second run on it is known to be async
        redirect.fire().wait(LIMIT)

        assert kinds.fire().wait(LIMIT) == usual


def test_an_error_of_the_job_itself_stays_its_own(queue, tmp_path):
    with PoolProcess(tmp_path, queue.url, "default"), pytest.raises(JobFailed, match="in the middle"):
        queue.event(stdio_jobs.redirect_and_raise).fire().wait(LIMIT)
