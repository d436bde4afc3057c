"""The fixture ``skunk``, in test suites of their own, as other projects would have them."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ("pytester",)

SHOP = """
    from skunkqueue import SkunkQueue

    queue = SkunkQueue("shop", "redis://127.0.0.1:1/0")  # where no server is
    audit = SkunkQueue("audit", "sqlite:////nowhere/at/all.db")
    sent = []

    @queue.event
    def mail(to):
        if "@" not in to:
            raise ValueError(f"no address: {to}")
        sent.append(to)
        note.fire(to)
        return f"sent to {to}"

    @queue.event(timeout=0.1)
    def hang():
        import time
        while True:
            time.sleep(0.01)

    @queue.event(retries=1)
    def retried():
        raise KeyError("once")

    @audit.event
    async def note(what):
        if what == "spy@x":
            raise PermissionError(what)
        return f"noted {what}"
"""
CONFTEST = """
    import pytest
    import shop

    @pytest.fixture(autouse=True)
    def in_memory(skunk):
        skunk.replace(shop.queue, shop.audit)
"""


@pytest.fixture
def suite(pytester, monkeypatch):
    """Runs a file of tests beside the module ``shop``, in another process, with warnings as errors."""
    monkeypatch.delenv("SKUNKQUEUE_URL", raising=False)
    pytester.makepyfile(shop=SHOP)

    def run(tests, *options, conftest=CONFTEST):
        pytester.makeconftest(conftest)
        pytester.makepyfile(test_shop=tests)
        return pytester.runpytest_subprocess("-W", "error", "--strict-markers", "-p", "no:cacheprovider", *options)

    return run


def test_what_was_fired_is_executed_by_drain_on_all_queues(suite):
    told = suite("""
        import shop

        def test_mail(skunk):
            run = shop.mail.fire("ann@x")
            assert run.state == "queued"

            log = skunk.drain()

            assert run.result == "sent to ann@x" and shop.sent == ["ann@x"]
            assert shop.note.last.result == "noted ann@x"
            assert "finished" in log

        def test_nothing_is_left_of_another_test(skunk):
            assert shop.queue.runs() == [] and shop.audit.runs() == []
            skunk.drain()
        """)

    told.assert_outcomes(passed=2)


def test_the_first_failure_is_raised_with_the_traceback_of_the_job_and_no_more(suite):
    told = suite("""
        import pytest, shop

        def test_mail(skunk):
            shop.mail.fire("bob")
            shop.mail.fire("carol")
            skunk.drain()

        def test_of_an_async_job(skunk):
            shop.mail.fire("spy@x")
            skunk.drain()

        def test_that_it_can_be_caught(skunk):
            shop.mail.fire("bob")
            with pytest.raises(ValueError, match="no address: bob"):
                skunk.drain()
            shop.mail.fire("ann@x")
            skunk.drain()  # what was raised once is not raised again
        """)

    told.assert_outcomes(passed=1, failed=2)
    told.stdout.fnmatch_lines(
        ["*skunk.drain()*", ">*raise ValueError(f*", "E *ValueError: no address: bob", "E *1 other runs failed)"]
    )
    told.stdout.fnmatch_lines(["*>*raise PermissionError(what)*", "E *PermissionError: spy@x"])
    assert "serial.py" not in told.stdout.str()
    assert "skunk.py" not in told.stdout.str()


def test_what_no_job_raised_is_a_job_failed(suite):
    told = suite("""
        import pytest, shop
        from skunkqueue import JobFailed

        def test_a_timeout(skunk):
            shop.hang.fire()
            with pytest.raises(JobFailed, match="did not end within"):
                skunk.drain()

        def test_a_failure_that_is_tried_again(skunk):
            run = shop.retried.fire()
            skunk.drain()
            assert run.state == "scheduled"
            run.promote()
            with pytest.raises(KeyError):
                skunk.drain()

        def test_that_it_is_left_to_the_test(skunk):
            run = shop.mail.fire("bob")
            skunk.drain(raises=False)
            assert run.state == "failed"
        """)

    told.assert_outcomes(passed=3)


def test_a_store_that_nobody_named_is_refused_with_a_sentence(suite, tmp_path):
    told = suite(
        f"""
        import pytest, shop
        from skunkqueue import SkunkQueue, WorkerPool, WrongCall

        def test_a_queue_elsewhere(skunk):
            with pytest.raises(WrongCall, match=r"queue shop is on redis://127.0.0.1:1/0.* skunk.replace\\(queue\\)"):
                shop.mail.fire("ann@x")
            with pytest.raises(WrongCall, match="skunk.allow"):
                WorkerPool(shop.queue)

        def test_the_users_own_file(skunk):
            with pytest.raises(WrongCall, match="queue mine is on sqlite://"):
                SkunkQueue("mine").runs()

        def test_one_that_was_used_before(real, skunk):
            with pytest.raises(WrongCall, match="queue real is on sqlite://"):
                real.runs()

        def test_one_that_is_allowed(real, skunk):
            skunk.allow(real)
            assert real.runs() == []
            skunk.drain()

        @pytest.fixture
        def real():
            queue = SkunkQueue("real", "sqlite:///{tmp_path}/real.db")
            assert queue.runs() == []
            yield queue
            assert queue.runs() == []  # the fixture skunk has ended
            queue.close()
        """,
        conftest="",
    )

    told.assert_outcomes(passed=4)


def test_a_job_of_the_test_itself_is_the_very_function(suite):
    told = suite(
        """
        from unittest.mock import Mock

        def test_on_its_own_queue(skunk):
            called = Mock(return_value=3)

            @skunk.queue.event(routes=["foo"])
            def add(first, second):
                return called(first, second)

            run = add.fire(1, 2)
            skunk.drain("bar")
            assert run.state == "queued"
            skunk.drain("foo")

            assert run.result == 3
            called.assert_called_once_with(1, 2)

        def test_on_a_queue_with_a_stand_in(skunk):
            import shop
            skunk.replace("redis://127.0.0.1:1/0")
            called = Mock(return_value=5)

            @shop.queue.event
            def ask():
                return called()

            run = ask.fire()
            skunk.drain()
            assert run.result == 5
        """,
        conftest="",
    )

    told.assert_outcomes(passed=2)


def test_it_works_in_the_processes_of_xdist(suite):
    told = suite(
        """
        import pytest, shop

        @pytest.mark.parametrize("number", range(6))
        def test_mail(number, skunk):
            run = shop.mail.fire(f"{number}@x")
            skunk.drain()
            assert run.result == f"sent to {number}@x"
            assert len(shop.queue.runs()) == 1
        """,
        "-n2",
    )

    told.assert_outcomes(passed=6)


def test_the_plugin_costs_nothing_where_it_is_not_used():
    code = (
        "import pytest, sys; before = set(sys.modules); import skunkqueue.pytest_plugin; "
        "print(*sorted(set(sys.modules) - before))"
    )

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=60).stdout

    assert loaded.split() == ["skunkqueue", "skunkqueue.pytest_plugin"]


def test_pytest_finds_it_and_says_what_it_is(pytester):
    told = pytester.runpytest_subprocess("--fixtures")

    told.stdout.fnmatch_lines(["skunk -- *", "*SkunkQueue for one test*"])
