"""What keeps a job from being imported is the trouble of one worker: its runs wait for another, and are not failed."""

from __future__ import annotations

import importlib
import io
import os
import sys

import pytest
from pools import LIMIT, PoolProcess, until

from skunkqueue import JobFailed, SkunkQueue
from skunkqueue.clock import Clock
from skunkqueue.codec import encode_call
from skunkqueue.envelope import Claim, Envelope, Seal, pack_body, pack_head
from skunkqueue.ids import new_id
from skunkqueue.policy import Unknown, decode_notes, judge
from skunkqueue.worker.pool import completer
from skunkqueue.worker.pool.completer import Completer
from skunkqueue.worker.pool.log import Log
from skunkqueue.worker.pool.settings import Settings, make_slots

LACKS = {
    "a setting": "os.environ['SHOP_DSN']",
    "a name": "from os import a_helper_of_tomorrow",
    "a module": "import a_module_of_tomorrow",
    "an attribute": "os.a_helper_of_tomorrow",
    "its syntax": "exec('def')",
    "a file": "open('there is no such file')",
    "its way back": "def f(): f()\n    f()",
    "its patience": "sys.exit('no')",
    "its life": "os._exit(7)",
    "its memory": "ctypes.string_at(0)",
    "its process": "os.kill(os.getpid(), signal.SIGKILL)",
}
"""What a worker that is not deployed well lacks, by the line at which its import ends."""
SHORT = ("a setting", "a module", "its patience", "its life", "its process")
EVERY_LACK = [pytest.param(lack, marks=() if lack in SHORT else pytest.mark.slow) for lack in LACKS]

MODULE = """
import ctypes, os, signal, sys
from skunkqueue import SkunkQueue
if not os.environ.get("DEPLOYED"):
    {line}
queue = SkunkQueue("demo", os.environ["SKUNKQUEUE_URL"])

@queue.event
def bill(n):
    return n

def plain(n):
    return n

class Order:
    def __init__(self, n):
        self.n = n

@queue.event(name="taken")
def take(order):
    return order.n
"""
DEPLOYED = "import os; os.environ['DEPLOYED'] = '1'\n"


@pytest.fixture
def deploy(tmp_path, monkeypatch):
    """Gives a module that can be imported here, but not everywhere."""
    url = f"sqlite:///{tmp_path}/runs.db"
    monkeypatch.setenv("SKUNKQUEUE_URL", url)
    monkeypatch.setenv("DEPLOYED", "1")
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def write(lack, name="shop"):
        (tmp_path / f"{name}.py").write_text(MODULE.format(line=LACKS[lack]))
        names.append(name)
        module = importlib.import_module(name)
        monkeypatch.delenv("DEPLOYED")
        return module, url

    yield write
    for name in names:
        sys.modules.pop(name).queue.close()


@pytest.mark.parametrize("lack", EVERY_LACK)
def test_what_one_worker_cannot_import_runs_on_another_and_no_attempt_is_spent(deploy, tmp_path, lack):
    module, url = deploy(lack)
    runs = module.bill.fire_many([(n,) for n in range(200)])

    with PoolProcess(tmp_path, url, "default") as half:
        half.said("cannot run")
        with PoolProcess(tmp_path, url, "default", prelude=DEPLOYED):
            assert runs.wait(LIMIT) == list(range(200))
        assert {run.attempts for run in runs} == {1}
        assert half.log().count("cannot run shop:bill") == 1
        assert f"its folder is {tmp_path}" in half.log()
        assert half.log().count(" retries ") <= half.log().count(" took ")  # nothing of those that were not asked for
        assert half.log().count(" took ") < 100


@pytest.mark.slow
@pytest.mark.alone
def test_what_a_worker_put_back_is_offered_to_others_first(deploy, tmp_path):
    module, url = deploy("a setting")
    with PoolProcess(tmp_path, url, "default") as half, PoolProcess(tmp_path, url, "default", prelude=DEPLOYED):
        module.bill.fire(0).wait(LIMIT)
        again = 0
        for n in range(20):
            before = half.log().count(" took ")
            assert module.bill.fire(n).wait(LIMIT) == n
            again += max(0, half.log().count(" took ") - before - 1)
    assert again < 5  # by chance it would be 10


@pytest.mark.parametrize("kind", ["by value", "in an argument"])
def test_a_module_that_a_pickle_needs_is_waited_for_too(deploy, tmp_path, kind):
    module, url = deploy("a setting")
    by_value = SkunkQueue("demo", url).event(name="by value")(module.plain)
    run = by_value.fire(1) if kind == "by value" else module.take.options().fire(module.Order(1))

    with PoolProcess(tmp_path, url, "default") as half:
        half.said("cannot run").said("KeyError: 'SHOP_DSN'")
        with PoolProcess(tmp_path, url, "default", prelude=DEPLOYED):
            assert run.wait(LIMIT) == 1
    assert run.attempts == 1


@pytest.mark.parametrize("lack", ["a setting", "its patience", "its life"])
def test_a_run_that_no_worker_can_import_fails_after_patience_with_the_reason(deploy, tmp_path, lack):
    module, url = deploy(lack)
    run = module.bill.fire(1)

    with PoolProcess(tmp_path, url, "default", patience=1), pytest.raises(JobFailed) as failure:
        run.wait(LIMIT)

    assert failure.value.type == "UnknownJob"
    assert {"a setting": "KeyError: 'SHOP_DSN'", "its patience": "SystemExit: no", "its life": "exit code 7"}[
        lack
    ] in failure.value.message


def test_other_jobs_go_on_beside_one_that_cannot_be_imported(deploy, tmp_path):
    module, url = deploy("a setting")
    queue = SkunkQueue("demo", url)
    module.bill.fire_many([(n,) for n in range(50)])
    good = queue.event(name="good")(abs).fire_many([(-n,) for n in range(200)])

    with PoolProcess(tmp_path, url, "default", concurrency=2) as half:
        assert good.wait(LIMIT) == list(range(200))
        until(lambda: "cannot run" in half.log())


def test_what_a_worker_knows_is_not_held_up_for_long_by_all_that_it_does_not_know(deploy, tmp_path):
    module, url = deploy("a setting")
    queue = SkunkQueue("demo", url)
    module.bill.fire_many([(n,) for n in range(40)])
    good = queue.event(name="good")(abs).fire(-1)

    with PoolProcess(tmp_path, url, "default") as half:
        half.said("cannot run")
        assert good.wait(20) == 1  # with a second for each of them it would be 37


def test_a_great_many_that_it_does_not_know_are_put_back_unasked(deploy, tmp_path):
    module, url = deploy("a setting")
    queue = SkunkQueue("demo", url)
    module.bill.fire_many([(n,) for n in range(3000)])
    good = queue.event(name="good")(abs).fire(-1)

    with PoolProcess(tmp_path, url, "default") as half:
        half.said("cannot run")
        assert good.wait(LIMIT) == 1  # asked one by one it would be 300 s
        assert half.log().count(" took ") < 300


@pytest.fixture
def unknown():
    """A slot whose worker cannot have a function of a script, and what hands out its claims."""
    (slot,) = make_slots(Settings("pool", "demo", ("default",)))
    completer = Completer(Clock(lambda: 0.0), Log(io.StringIO()), patience=600)
    completer.judge(slot, completer.admit(slot, claim_of(b"code")), Unknown("no shop", every=True), 0.0)
    completer.take()
    return slot, completer


def claim_of(code):
    body = pack_body(pack_head("bill", "__main__:bill", Seal()), code, encode_call((), {}))
    return Claim(Envelope(new_id(0.0), "demo", "default", 0.0, body), "token", "worker", 0.0)


def test_what_is_put_back_unasked_waits_for_another_worker_for_a_moment_only(unknown):
    slot, completer = unknown

    assert completer.admit(slot, claim_of(b"code")) is None
    ((_, outcome),) = completer.outcomes

    now = Clock(lambda: 0.0).now()
    assert outcome.kind == "again"
    assert outcome.due - now < 0.2
    judged = judge(Unknown("no shop", asked=False), Seal(), decode_notes(outcome.notes), now=now + 100)
    assert judged.due - now > 110  # of what nobody can have: longer and longer


def test_a_function_of_the_same_name_in_another_script_is_not_put_back_unasked(unknown):
    slot, completer = unknown

    assert completer.admit(slot, claim_of(b"other code")) is not None


def test_a_worker_that_can_import_after_a_while_is_asked_again(deploy, tmp_path):
    module, url = deploy("a file")
    runs = module.bill.fire_many([(n,) for n in range(300)])

    with PoolProcess(tmp_path, url, "default") as half:
        half.said("cannot run")
        (tmp_path / "there is no such file").touch()
        assert runs.wait(LIMIT) == list(range(300))
    assert {run.attempts for run in runs} == {1}


def test_an_import_that_does_not_end_is_stopped_by_the_timeout_and_the_run_waits(deploy, tmp_path, monkeypatch):
    monkeypatch.setitem(LACKS, "time", "import time; time.sleep(60)")
    module, url = deploy("time")
    run = module.bill.options(timeout=3, at_most_once=True).fire(1)  # the good worker has to import it within that too

    with PoolProcess(tmp_path, url, "default", kill_after=0.1) as half:
        half.said("was not imported within its timeout of 3 s")
        with PoolProcess(tmp_path, url, "default", prelude=DEPLOYED):
            assert run.wait(LIMIT) == 1


def test_a_pool_that_stops_while_a_job_is_imported_hands_its_run_back(deploy, tmp_path, monkeypatch):
    monkeypatch.setitem(LACKS, "time", "import time; time.sleep(60)")
    module, url = deploy("time")
    run = module.bill.options(at_most_once=True).fire(1)

    with PoolProcess(tmp_path, url, "default", kill_after=0.1) as half:
        half.said(" took ")
        half.stop(2)  # SIGINT
    with PoolProcess(tmp_path, url, "default", prelude=DEPLOYED):
        assert run.wait(LIMIT) == 1


def test_where_the_folder_of_a_pool_is_gone_its_log_names_none(monkeypatch):
    """As where a deployment deletes the release before. To say so must cost no worker."""
    assert completer._folder().startswith("; its folder is /")

    def gone():
        raise FileNotFoundError

    monkeypatch.setattr(os, "getcwd", gone)
    assert completer._folder() == ""
