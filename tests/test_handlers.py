"""Handlers: what is called for each run that ended so, on every store and over deaths; and what it never does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from pools import LIMIT, PoolProcess, marks, until

from skunkqueue import Run, SkunkQueue, WorkerPool, WrongCall
from skunkqueue.envelope import Claim, Envelope, Outcome
from skunkqueue.handlers import declared
from skunkqueue.handlers.book import declare, readable
from skunkqueue.handlers.declared import handlers_of
from skunkqueue.handlers.ends import Ends
from skunkqueue.handlers.handler import EndHandler
from skunkqueue.ids import new_id
from skunkqueue.persistence import Limits
from skunkqueue.persistence.memory import MemoryPersister
from skunkqueue.routes import HIGH, is_internal
from skunkqueue.schedules.definition import Pieces
from skunkqueue.schedules.paused import ROUTE, pause, pauses, standing
from skunkqueue.schedules.registry import registry
from skunkqueue.testing import drain
from skunkqueue.testing.makers import NOW


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a test's functions declare is not kept for the next one."""
    yield
    registry.handlers.clear()


@pytest.fixture
def queue(request) -> Iterator[SkunkQueue]:
    with SkunkQueue("demo", f"memory://{request.node.name}") as queue:
        yield queue


@pytest.fixture
def divide(queue):
    return queue.job(name="divide")(lambda one, other: one / other)


# -- what is called, and with what -----------------------------------------------------------------------------------


def test_a_handler_is_called_for_each_run_that_failed_and_for_no_other(queue, divide):
    seen = []

    @queue.on("failed")
    def alert(run):
        seen.append((run.id, run.state, run.error, run.job, run.args))

    runs = divide.fire_many([(1, 0), (4, 2), (2, 0)])
    drain(queue)

    error = "ZeroDivisionError: division by zero"
    assert sorted(seen) == sorted((run.id, "failed", error, "divide", run.args) for run in (runs[0], runs[2]))
    assert runs[1].result == 2


def test_a_run_that_is_tried_again_has_not_failed_yet(queue):
    seen = []
    queue.on("failed", "succeeded")(lambda run: seen.append((run.state, run.attempts)))

    @queue.job(retries=2, backoff=0)
    def flaky():
        raise OSError

    flaky.fire()
    drain(queue)

    assert seen == [("failed", 3)]


def test_a_handler_of_both_ends_and_several_handlers_are_all_called(queue, divide):
    seen = []

    @queue.on("failed", "succeeded")
    def told(run):
        seen.append(("told", run.state))

    @queue.on("succeeded")
    async def well(run):
        seen.append(("well", run.state))

    divide.fire_many([(1, 0), (4, 2)])
    drain(queue)

    assert sorted(seen) == [("told", "failed"), ("told", "succeeded"), ("well", "succeeded")]


def test_a_handler_that_raises_harms_nothing_and_calls_no_handler(queue, divide):
    @queue.on("failed")
    def alert(run):
        raise ConnectionError("no mail today")

    run = divide.fire(1, 0)
    drain(queue)

    assert (run.state, run.error, run.attempts) == ("failed", "ZeroDivisionError: division by zero", 1)
    errors = sorted(each.error for each in queue.runs(state="failed"))
    assert errors == ["ConnectionError: no mail today", "ZeroDivisionError: division by zero"]


def test_a_handler_has_options_like_any_job(queue, divide):
    tries = []

    @queue.on("failed", retries=2, backoff=0, routes="alerts")
    def alert(run):
        tries.append(run.id)
        if len(tries) < 3:
            raise ConnectionError

    run = divide.fire(1, 0)
    drain(queue, "default")
    assert (tries, [each._record.envelope.route for each in queue.runs(state="queued")]) == ([], ["alerts"])

    drain(queue)
    assert tries == [run.id] * 3


def test_a_handler_runs_on_the_route_of_the_run_with_a_priority_of_its_own(queue):
    queue.on("failed", priority="high")(lambda run: None)
    queue.job(routes="slow", priority="low", name="fails")(lambda: 1 / 0).fire()

    drain(queue)

    assert {run._record.envelope.route for run in queue.runs(state="succeeded")} == {"slow" + HIGH}


def test_a_run_that_is_run_again_calls_again(queue, divide):
    seen = []
    queue.on("failed")(lambda run: seen.append(run.id))
    run = divide.fire(1, 0)
    drain(queue)

    queue.store.reopen([run.id], now=queue.clock.now())
    drain(queue)

    assert seen == [run.id] * 2


def test_a_handler_can_be_called_by_hand(queue, divide):
    @queue.on("failed")
    def alert(run):
        return run.id

    run = divide.fire(1, 0)

    assert alert(run) == run.id
    assert isinstance(run, Run)


@pytest.mark.parametrize(
    ("events", "options", "said"),
    [
        (("fail",), {}, "there is no 'fail'; did you mean 'failed'"),
        ((), {}, "on is given how runs end"),
        (("ended",), {}, 'there is no on\\("ended"\\): runs are cancelled, and expire, in the store'),
        (("failed",), {"expires": 5}, "on\\(...\\) takes no expires, unique, window or debounce"),
        (("failed",), {"retry": 5}, "here it is retries="),
    ],
)
def test_a_wrong_handler_is_refused_where_it_is_declared(queue, events, options, said):
    with pytest.raises(WrongCall, match=said):
        queue.on(*events, **options)(lambda run: None)


def test_a_broadcast_queue_has_no_handlers():
    with (
        SkunkQueue("news", "memory://news", queue_type="broadcast") as news,
        pytest.raises(WrongCall, match="broadcast"),
    ):
        news.on("failed")(lambda run: None)


# -- at least once ---------------------------------------------------------------------------------------------------


def called(queue, job, run):
    """Put the run of a handler, as the pool does that is to commit the end of this run."""
    (handler,) = handlers_of(job)
    queue.store.put(handler.run(run.id, "default", "demo", queue.clock.now()))


def test_a_handler_waits_for_an_end_that_has_not_come_about(queue, divide, monkeypatch):
    """As where a pool is killed between the put and the commit."""
    monkeypatch.setattr(declared, "SOON", 0.0)
    seen = []
    alert = queue.on("failed")(lambda run: seen.append(run.state))
    run = divide.options(routes="later").fire(1, 0)
    called(queue, alert, run)

    drain(queue, "default")
    assert seen == []
    drain(queue)

    assert "failed" in seen  # twice, as it was put twice


def test_a_handler_is_not_called_where_the_run_ends_otherwise(queue, divide, monkeypatch):
    monkeypatch.setattr(declared, "SOON", 0.0)
    seen = []
    alert = queue.on("failed")(lambda run: seen.append(run.state))
    runs = [divide.options(routes="later").fire(4, 2), divide.options(routes="later").fire_at(60, 4, 2)]
    for run in runs:
        called(queue, alert, run)
    drain(queue, "default")

    runs[1].cancel()
    drain(queue)
    drain(queue)

    assert ([run.state for run in runs], seen) == (["succeeded", "cancelled"], [])
    assert {run.state for run in queue.runs()} <= {"succeeded", "cancelled"}


def test_a_handler_is_called_for_a_run_that_is_no_longer_kept(queue, divide):
    seen = []
    alert = queue.on("failed")(lambda run: seen.append(run.id))
    gone = Run(queue, new_id(queue.clock.now()))
    called(queue, alert, gone)

    drain(queue)

    assert seen == [gone.id]


def test_the_failure_of_a_result_that_the_store_does_not_take_is_handled(queue, monkeypatch):
    monkeypatch.setattr(MemoryPersister, "limits", Limits(value=2000))
    seen = []
    queue.on("failed")(lambda run: seen.append(run.error))
    run = queue.job(name="large")(lambda: b"x" * 5000).fire()

    with WorkerPool(queue, in_process=True):
        until(lambda: seen)

    assert (run.state, len(seen)) == ("failed", 1)
    assert "its result cannot be kept" in seen[0]


def test_a_queue_without_handlers_puts_nothing_more(queue, divide, monkeypatch):
    puts = []
    put = MemoryPersister.put
    monkeypatch.setattr(MemoryPersister, "put", lambda *args, **more: puts.append(len(args[1])) or put(*args, **more))

    run = divide.fire(1, 0)
    with WorkerPool(queue, in_process=True):
        until(lambda: run.state == "failed")

    assert puts == [1]
    assert not Ends("demo")


# -- what a store holds of them, on every store ----------------------------------------------------------------------


def handler(name="shop:alert", module="shop", event="failed", head=b"head"):
    return EndHandler(event, name, ("",), 60.0, module, Pieces(head, b"", b"m\x92\x91\xa0\x80"))


def held(store):
    return [each for _, each in readable(standing(store, "demo", now=NOW))]


def test_declaring_twice_is_declaring_once_and_a_change_takes_its_place(store):
    first, other = handler(), handler("shop:log", event="succeeded")

    for _ in range(2):
        declare(store, "demo", [first, other], now=NOW)
    assert sorted(held(store)) == sorted([first, other])

    changed = handler(head=b"with retries")
    declare(store, "demo", [changed, other], now=NOW)
    assert sorted(held(store)) == sorted([changed, other])

    declare(store, "demo", [first, other], now=NOW)
    assert sorted(held(store)) == sorted([first, other])


def test_what_a_module_does_not_declare_any_more_is_forgotten(store):
    kept = handler("mail:alert", "mail")
    declare(store, "demo", [handler(), kept], now=NOW)

    declare(store, "demo", [], now=NOW, undeclared=["shop", "other"])

    assert held(store) == [kept]


def test_handlers_and_pauses_do_not_see_each_other(store):
    declare(store, "demo", [handler()], now=NOW)
    pause(store, "demo", ROUTE, "slow", now=NOW, until=None)

    assert held(store) == [handler()]
    assert [(each.kind, each.name) for each in pauses(store, "demo", now=NOW)] == [(ROUTE, "slow")]
    assert all(is_internal(record.envelope.route) for record in standing(store, "demo", now=NOW))


def test_a_pool_knows_what_the_store_holds_and_what_its_workers_declare():
    ends = Ends("demo")
    claim = Claim(Envelope("7" * 28, "demo", "slow^low", NOW, b""), "token", "w", NOW + 5)
    assert not ends

    ends.know([handler(head=b"stored")])
    ends.hear([handler(head=b"own"), handler("shop:log", event="succeeded")])
    (run,) = ends.runs([(claim, Outcome.failed("no")), (claim, Outcome.again())], NOW)
    ends.know([])

    assert (run.route, run.queue, run.due) == ("slow", "demo", NOW)
    assert b"own" in run.body and ends


# -- where pools run -------------------------------------------------------------------------------------------------

SHOP = """
import os, signal, time
from skunkqueue import SkunkQueue
queue = SkunkQueue("demo")

@queue.on("failed")
def alert(run):
    with open(os.path.join(os.environ["MARKS"], "alerts"), "a") as file:
        file.write(f"{run.id} {run.error}\\n")

@queue.job
def fails():
    raise ValueError("no")

@queue.job
def dies():
    os.kill(os.getpid(), signal.SIGKILL)

@queue.job(timeout=0.3)
def hangs():
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

@queue.job
def kills_pools():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
"""


@pytest.fixture(params=["sqlite", "redis", "mongodb", "fdb"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/runs.db"
    from conftest import STORES

    return opened_url(STORES[request.param](request)())


def opened_url(store):
    with contextlib.closing(store):
        target = getattr(store, "target", None)
        return getattr(target, "full_url", None) or store.url


@pytest.fixture
def shop(url, tmp_path, monkeypatch):
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SKUNKQUEUE_URL", url)
    sys.modules.pop("shop", None)
    import shop

    yield shop
    shop.queue.close()
    sys.modules.pop("shop", None)


def pool_on(folder, url, prelude="", **options):
    start = "import sys; sys.path.insert(0, '')\n" + prelude
    return PoolProcess(folder, url, "default", lease=1, prelude=start, **options)


def alerts(folder):
    with contextlib.suppress(OSError):
        return (folder / "alerts").read_text().splitlines()
    return []


def test_every_way_to_fail_is_told(shop, url, tmp_path):
    runs = {name: getattr(shop, name).fire() for name in ("fails", "dies", "hangs")}

    with pool_on(tmp_path, url):
        until(lambda: len(alerts(tmp_path)) >= 3)

    told = dict(line.split(" ", 1) for line in alerts(tmp_path))
    assert told.keys() == {run.id for run in runs.values()}
    assert told[runs["fails"].id] == "ValueError: no"
    assert told[runs["dies"].id].startswith("poison: 3 workers died of it")
    assert told[runs["hangs"].id] == "TimeoutError: did not end within 0.3 s"
    assert len(alerts(tmp_path)) == 3


def test_a_pool_that_is_killed_between_the_put_and_the_commit_loses_no_call(shop, url, tmp_path):
    prelude = (
        "import os, signal\n"
        "from skunkqueue.worker.pool import exchanger\n"
        "exchange = exchanger.exchange_isolated\n"
        "def dying(source, outcomes, wants, **more):\n"
        "    if any(outcome.kind == 'failed' for _, outcome in outcomes):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return exchange(source, outcomes, wants, **more)\n"
        "exchanger.exchange_isolated = dying\n"
    )
    run = shop.fails.fire()

    with pool_on(tmp_path, url, prelude) as first:
        assert first.ends() == -signal.SIGKILL
    assert run.state in ("running", "queued")
    with pool_on(tmp_path, url):
        until(lambda: alerts(tmp_path))

    assert {line.split(" ", 1)[0] for line in alerts(tmp_path)} == {run.id}
    assert run.state == "failed"


def test_a_run_that_ends_in_a_pool_whose_workers_have_imported_nothing_is_told(shop, url, tmp_path):
    """It takes pools down, so that the last one fails it without running it. It knows the handler by the store."""
    first = shop.fails.fire()
    with pool_on(tmp_path, url):
        until(lambda: alerts(tmp_path))
    run = shop.kills_pools.fire()
    for _ in range(4):  # the first death of a pool counts for nobody
        with pool_on(tmp_path, url) as pool:
            assert pool.ends() == -signal.SIGKILL

    with pool_on(tmp_path, url):
        until(lambda: any(line.startswith(run.id) for line in alerts(tmp_path)))

    # Each at least once: where the pool is killed that has just called it, the next one does so again.
    assert {line.split(":")[0] for line in alerts(tmp_path)} == {f"{first.id} ValueError", f"{run.id} poison"}


def test_a_deployment_forgets_the_handler_that_the_code_no_longer_declares(shop, url, tmp_path):
    with pool_on(tmp_path, url, imports=["shop"]):
        until(lambda: held(shop.queue.store))

    (tmp_path / "shop.py").write_text(SHOP.replace('@queue.on("failed")\n', ""))
    with pool_on(tmp_path, url, imports=["shop"]):
        until(lambda: not held(shop.queue.store))


def test_the_handlers_of_a_script_come_along_to_pools_elsewhere_and_do_not_outlive_them(tmp_path):
    url = f"sqlite:///{tmp_path}/script.db"
    (tmp_path / "script.py").write_text(
        "from skunkqueue import SkunkQueue\n"
        f"queue = SkunkQueue('demo', {url!r})\n"
        "for text in ('old', 'new'):\n"
        "    @queue.on('failed')\n"
        "    def told(run, text=text):\n"
        f"        open('{tmp_path}/told', 'a').write(f'{{text}} {{run.id}} {{run.error}}\\n')\n"
        "@queue.job\n"
        "def divide(one, other):\n"
        "    return one / other\n"
        "print(divide.fire(1, 0).id)\n"
    )

    with PoolProcess(tmp_path, url, "default"):
        done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        until(lambda: marks(tmp_path, "told"))

    error = "ZeroDivisionError: division by zero"
    assert (tmp_path / "told").read_text() == f"new {done.stdout.strip()} {error}\n", done.stderr
    with SkunkQueue("demo", url) as queue:
        assert held(queue.store) == []


def test_the_handler_of_a_script_travels_by_value(tmp_path):
    (tmp_path / "script.py").write_text(
        "import os\n"
        "from skunkqueue import SkunkQueue, WorkerPool\n"
        f"queue = SkunkQueue('demo', 'sqlite:///{tmp_path}/script.db')\n"
        "@queue.on('succeeded')\n"
        "def told(run):\n"
        f"    open('{tmp_path}/told', 'a').write(run.id + '\\n')\n"
        "@queue.job\n"
        "def hello():\n"
        "    return 'hello'\n"
        "import time\n"
        "with WorkerPool(queue):\n"
        "    print(hello.fire().wait(30))\n"
        f"    while not os.path.exists('{tmp_path}/told'):\n"
        "        time.sleep(0.01)\n"
    )

    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=2 * LIMIT
    )

    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    assert marks(tmp_path, "told") == 1
    assert os.path.exists(tmp_path / "told")
