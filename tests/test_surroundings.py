"""What a job does to its process's folder, umask, timers and signal handlers, no later job notices."""

from __future__ import annotations

import time

import pytest
import surroundings_jobs
from pools import LIMIT, PoolProcess, until

from skunkqueue import JobFailed, SkunkQueue
from skunkqueue.codec import encode_call
from skunkqueue.envelope import Envelope, Seal, pack_body, pack_head
from skunkqueue.ids import new_id


@pytest.fixture
def queue(tmp_path):
    queue = SkunkQueue("demo", f"sqlite:///{tmp_path}/runs.db")
    yield queue
    queue.close()


@pytest.mark.parametrize("offence", surroundings_jobs.OFFENCES, ids=lambda offence: offence.__name__)
def test_what_a_job_does_to_its_process_the_next_does_not_notice(queue, tmp_path, offence):
    tell = queue.event(surroundings_jobs.how_it_is)
    with PoolProcess(tmp_path, queue.url, "default"):
        usual = tell.fire().wait(LIMIT)

        spoilt = queue.event(offence).fire()
        assert spoilt.wait(LIMIT) is None

        assert tell.fire().wait(LIMIT) == usual
        time.sleep(1.2 if "leave" in offence.__name__ else 0)  # for a timer that was left would have come by then
        assert tell.fire().wait(LIMIT) == usual
        assert spoilt.attempts == 1


def test_amid_a_stream_of_short_runs_none_is_in_the_folder_of_another(queue, tmp_path):
    where, spoil = queue.event(surroundings_jobs.where), queue.event(surroundings_jobs.go_elsewhere)
    runs = []
    for _ in range(30):
        spoil.fire()
        runs += where.fire_many([()] * 5)

    with PoolProcess(tmp_path, queue.url, "default"):
        assert len({run.wait(LIMIT) for run in runs}) == 1
        assert runs[0].result != "/"


@pytest.mark.parametrize("offence", [surroundings_jobs.handle_signals, surroundings_jobs.ignore_signals])
def test_a_job_is_interrupted_though_an_earlier_one_took_the_signal_for_that(queue, tmp_path, offence):
    with PoolProcess(tmp_path, queue.url, "default", kill_after=60):
        assert queue.event(offence).fire().wait(LIMIT) is None

        with pytest.raises(JobFailed, match="did not end within"):
            queue.event(surroundings_jobs.sleep_long, timeout=0.5).fire().wait(LIMIT)


@pytest.mark.parametrize(
    "offence",
    [
        surroundings_jobs.go_elsewhere,
        surroundings_jobs.go_to_what_is_gone,
        surroundings_jobs.mask_all,
        surroundings_jobs.handle_signals_async,
    ],
    ids=lambda offence: offence.__name__,
)
def test_a_worker_of_several_is_as_before_once_nothing_runs(queue, tmp_path, offence):
    tell = queue.event(surroundings_jobs.how_it_is)
    with PoolProcess(tmp_path, queue.url, "default", concurrency=3):
        usual = tell.fire().wait(LIMIT)

        assert queue.event(offence).fire().wait(LIMIT) is None

        until(lambda: tell.fire().wait(LIMIT) == usual)


def test_what_a_module_sets_when_it_is_imported_stays(queue, tmp_path):
    body = pack_body(pack_head("own", "settling_jobs:own", Seal()), b"", encode_call((), {}))
    with PoolProcess(tmp_path, queue.url, "default"):
        for _ in range(3):
            (id,) = queue.store.put([Envelope(new_id(queue.now()), "demo", "default", queue.now(), body)])
            assert queue.run(id).wait(LIMIT) == (0o027, True)
            queue.event(surroundings_jobs.mask_all).fire().wait(LIMIT)
