"""Hermes as people use it: the script of its README, processors of all kinds, threads and processes, signals."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgpack
import pytest
import spool_tasks
from pools import LIMIT, until

from skunkqueue import WrongCall
from skunkqueue.spool import Hermes, drop, retry
from skunkqueue.spool.source import SpoolSource

HERE = Path(__file__).parent

SCRIPT = """\
class Download:
    def run(self, task):
        print("Downloading page: {0}".format(task['url']))
        return True

def send_email(task):
    print("Email for: {0}".format(task['rcpt']))
    return True

if __name__ == '__main__':
    hermes = hermes.Hermes('/tmp/jobs')
    hermes.register({'email':    send_email})
    hermes.register({'download': Download})
    hermes.start(daemon=True)
"""

SENDER = """\
import pickle as cPickle

email = {'type':    'email',
         'from':    'no@mail.com',
         'rcpt':    'test@example.com',
         'subject': 'Test email',
         'body':    'Hi there!'}

download = {'type': 'download',
            'url':  'http://www.miljan.org/',
            'file': '/tmp/miljan.org.html'}

cPickle.dump(email, open("/tmp/jobs/in/email", "wb"))
cPickle.dump(download, open("/tmp/jobs/in/download", "wb"))
"""


class Program:
    """A program of ours in a process of its own, with what it says."""

    def __init__(self, folder, *words, **env):
        self.out_file, self.log_file = folder / f"out-{time.monotonic_ns()}", folder / f"log-{time.monotonic_ns()}"
        of_ours = {"PYTHONPATH": str(HERE), "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "MARKS": str(folder)}
        with self.out_file.open("wb") as out, self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env={**os.environ, **of_ours, **env},
                cwd=folder,
                start_new_session=True,
            )

    def out(self):
        return self.out_file.read_text()

    def log(self):
        return self.log_file.read_text()

    def said(self, text):
        try:
            until(lambda: text in self.log() + self.out() or self.process.poll() is not None)
            assert text in self.log() + self.out()
        except AssertionError:
            ended = self.process.poll()
            self.stop(signal.SIGABRT)  # the fault handler says where each thread is
            pytest.fail(f"{text!r} was not said; it ended with {ended}:\n{self.out()}{self.log()}")
        return self

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(LIMIT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT)


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("MARKS", str(tmp_path))
    return tmp_path / "jobs"


def marks(jobs, name):
    with contextlib.suppress(FileNotFoundError):
        return (jobs.parent / name).read_text().splitlines()
    return []


def names(jobs, folder):
    return sorted(os.listdir(jobs / folder))


@contextlib.contextmanager
def working(jobs, **options):
    log = io.StringIO()
    with Hermes(jobs, log=log, **options) as hermes:
        hermes.register(spool_tasks.processors)
        hermes.log = log.getvalue
        yield hermes


def until_said(hermes, text):
    until(lambda: text in hermes.log(), message=f"{text!r} was not said:\n{hermes.log()}")


def until_empty(jobs):
    until(lambda: not names(jobs, "in") and not names(jobs, "work"))


# the README


@pytest.mark.parametrize(
    ("head", "made"),
    [
        ("import skunkqueue.spool as hermes\n\n", "hermes.Hermes("),
        ("from skunkqueue.spool import Hermes\n\n", "Hermes("),
    ],
)
def test_the_script_of_the_readme_works_on_after_its_last_line_until_a_signal(tmp_path, head, made):
    here = lambda text: text.replace("/tmp/jobs", str(tmp_path / "jobs"))  # noqa: E731
    (tmp_path / "service.py").write_text(here(head + SCRIPT.replace("hermes.Hermes(", made)))
    (tmp_path / "send.py").write_text(here(SENDER))

    with Program(tmp_path, "service.py") as service:
        service.said("spool.1 started")
        for _ in range(3):
            subprocess.run([sys.executable, "send.py"], cwd=tmp_path, check=True, timeout=60)
            until_empty(tmp_path / "jobs")
        until(lambda: service.out().count("\n") == 6)
        assert service.stop() == 0

    assert service.out().count("Email for: test@example.com") == 3
    assert service.out().count("Downloading page: http://www.miljan.org/") == 3
    assert names(tmp_path / "jobs", "err") == []
    assert "made the folder" in service.log() and "finished in/email email in" in service.log()
    assert "Traceback" not in service.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_daemon_ends_by_any_signal_while_its_script_goes_on(tmp_path, number):
    (tmp_path / "service.py").write_text(
        "import time\nfrom skunkqueue.spool import Hermes\n"
        "h = Hermes('jobs')\nh.start(daemon=True)\nprint('going on')\ntime.sleep(60)\nprint('not reached')\n"
    )

    with Program(tmp_path, "service.py") as service:
        service.said("going on").said("spool.1 started")
        code = service.stop(number)

    assert code == -number and "not reached" not in service.out()
    assert "stopped" in service.log()


def test_a_daemon_starts_threads_and_processes_after_its_script_has_exited(tmp_path):
    (tmp_path / "service.py").write_text(
        "import subprocess, sys, threading\nfrom skunkqueue.spool import Hermes\n"
        "h = Hermes('jobs')\n"
        "def work(task):\n"
        "    started = threading.Thread(target=lambda: print('begun', threading.main_thread().is_alive()))\n"
        "    started.start(); started.join()\n"
        "    subprocess.run([sys.executable, '-c', 'print(\"made\")'], check=True)\n"
        "    print('worked')\n"
        "h.register({'work': work})\nh.start(daemon=True)\nsys.exit(0)\n"
    )

    with Program(tmp_path, "service.py") as service:
        service.said("spool.1 started")
        drop(tmp_path / "jobs", {"type": "work"})
        service.said("worked")
        assert service.stop() == 0

    assert "begun" in service.out() and "made" in service.out()


def test_stop_ends_a_daemon_and_the_script_with_it(tmp_path):
    (tmp_path / "service.py").write_text(
        "from skunkqueue.spool import Hermes, drop\nimport signal\n"
        "h = Hermes('jobs')\n"
        "def last(task):\n    print('done'); h.stop()\n"
        "h.register({'last': last})\nh.start(daemon=True)\ndrop('jobs', {'type': 'last'})\n"
    )

    with Program(tmp_path, "service.py") as service:
        assert service.process.wait(LIMIT) == 0

    assert service.out() == "done\n"


def test_in_the_foreground_there_is_a_readable_line_per_job_until_ctrl_c(tmp_path):
    (tmp_path / "service.py").write_text(
        "import spool_tasks\nfrom skunkqueue.spool import Hermes\n"
        "h = Hermes('jobs')\nh.register(spool_tasks.processors)\nh.start()\nprint('over')\n"
    )

    with Program(tmp_path, "service.py") as service:
        service.said("spool.4 started")
        drop(tmp_path / "jobs" / "in" / "one", {"type": "note", "name": "m"})
        drop(tmp_path / "jobs" / "in" / "two", {"type": "fail", "name": "m"})
        service.said("finished in/one note in ").said("failed in/two fail after ")
        drop(tmp_path / "jobs" / "in" / "three", {"type": "slow", "name": "s"})
        until(lambda: marks(tmp_path / "jobs", "s"))
        assert service.stop(signal.SIGINT) == 0

    assert service.out() == "over\n"
    assert names(tmp_path / "jobs", "work") + names(tmp_path / "jobs", "in") != []  # what ran was not lost
    assert marks(tmp_path / "jobs", "s.end") == []


def test_the_demo_runs(tmp_path):
    with Program(tmp_path, str(HERE.parent / "demo" / "spool.py"), str(tmp_path / "jobs")) as demo:
        demo.said("Email for: test@example.com").said("Downloading page: https://example.com/")
        until_empty(tmp_path / "jobs")
        assert demo.stop(signal.SIGINT) == 0


def test_a_line_names_the_file_whatever_the_job_says(jobs):
    def talk(data):
        return "it took 0123456789 long"

    with working(jobs) as hermes:
        hermes.register({"talk": talk})
        drop(jobs / "in" / "a took b", {"type": "talk"})
        until_said(hermes, "finished in/a took b talk in ")
        until_said(hermes, "'it took 0123456789 long'")


# processors


@pytest.mark.parametrize("options", [{}, {"threads": 1}, {"workers": 2}])
def test_functions_classes_and_async_functions_process_their_type(jobs, options):
    with working(jobs, **options):
        for number in range(3):
            drop(jobs, {"type": "note", "name": "note"})
            drop(jobs, {"type": "later", "name": "later"})
            drop(jobs, {"type": "download", "name": "download", "url": f"u{number}"})
        until(lambda: [len(marks(jobs, n)) for n in ("note", "later", "download")] == [3, 3, 3])
        until_empty(jobs)

    assert sorted(marks(jobs, "download")) == ["1 u0", "1 u1", "1 u2"]  # an instance for each job
    assert names(jobs, "err") == []


def test_functions_of_a_script_work_in_processes(tmp_path):
    (tmp_path / "service.py").write_text(
        "from skunkqueue.spool import Hermes, drop\n"
        "greeting = 'hello'\n"
        "def greet(task): print(greeting, task['name'], flush=True)\n"
        "with Hermes('jobs', workers=1) as h:\n"
        "    h.register({'greet': greet})\n"
        "    drop('jobs', {'type': 'greet', 'name': 'you'})\n"
        "    h.run_until_idle()\n"
    )

    with Program(tmp_path, "service.py") as service:
        assert service.process.wait(LIMIT) == 0, service.log()

    assert service.out() == "hello you\n"


def test_files_that_came_a_moment_ago_are_processed_before_an_idle_pool_ends(jobs, monkeypatch):
    waits = []
    monkeypatch.setattr(SpoolSource, "wait", lambda self, keys, timeout: (waits.append(keys), time.sleep(0.5)))
    with working(jobs) as hermes:
        until(lambda: len(waits) == 2)  # for files and for orders: it has looked and found nothing
        drop(jobs, {"type": "note", "name": "late"})

        hermes.run_until_idle()

        assert len(marks(jobs, "late")) == 1


@pytest.mark.parametrize("options", [{}, {"workers": 1}])
def test_registering_again_replaces_with_a_line(jobs, options):
    with working(jobs, **options) as hermes:
        drop(jobs, {"type": "note", "name": "first", "url": "x"})
        until(lambda: marks(jobs, "first"))
        hermes.register({"note": spool_tasks.Download})
        drop(jobs, {"type": "note", "name": "second", "url": "x"})
        until(lambda: marks(jobs, "second") == ["1 x"])

        until_said(hermes, "note is now processed by Download, no longer by note")


def test_a_type_may_be_registered_while_it_runs(jobs):
    with working(jobs) as hermes:
        hermes.register({"new": spool_tasks.note})
        drop(jobs, {"type": "new", "name": "m"})
        until(lambda: marks(jobs, "m"))


@pytest.mark.parametrize("target", [5, None, "note", object(), type("NoRun", (), {})])
def test_what_can_process_nothing_is_refused_at_once(jobs, target):
    with pytest.raises(WrongCall):
        Hermes(jobs, log=io.StringIO()).register({"x": target})


@pytest.mark.parametrize(
    "options", [{"threads": 0}, {"workers": -1}, {"retries": -1}, {"max_size": 0}, {"timeout": "x"}, {"threads": True}]
)
def test_options_that_cannot_be_right_are_refused_at_once(jobs, options):
    with pytest.raises(WrongCall):
        Hermes(jobs, **options)


def test_an_unknown_type_goes_to_err(jobs):
    with working(jobs):
        drop(jobs / "in" / "x", {"type": "emial"})
        until(lambda: "x.error" in names(jobs, "err"))

    assert "no processor for 'emial'" in (jobs / "err" / "x.error").read_text()


@pytest.mark.parametrize("age", [0, 60])
@pytest.mark.parametrize("options", [{}, {"workers": 1}])
def test_what_fails_is_kept_with_its_traceback_and_can_be_put_back(jobs, options, age):
    with working(jobs, **options) as hermes:
        (jobs / "x").write_bytes(pickle.dumps({"type": "fail", "name": "m"}))
        os.utime(jobs / "x", (time.time() - age,) * 2)  # an old one is read by its worker
        (jobs / "x").rename(jobs / "in" / "x")
        until(lambda: names(jobs, "err") == ["x", "x.error"] and names(jobs, "work") == [])
        report = (jobs / "err" / "x.error").read_text()
        hermes.register({"fail": spool_tasks.note})
        retry(jobs / "err" / "x")
        until(lambda: len(marks(jobs, "m")) == 2)

    assert "ValueError: no such rcpt" in report and "attempts: 1" in report and 'raise ValueError("no such' in report
    assert report.count("  File ") == 1  # it begins where the job does
    assert names(jobs, "err") == []


def test_a_result_of_any_kind_is_nobodys_trouble(jobs):
    with working(jobs) as hermes:
        hermes.register({"lock": lambda data: threading.Lock(), "big": lambda data: "x" * 10**7})
        drop(jobs, {"type": "lock"}), drop(jobs, {"type": "big"})
        until_empty(jobs)

    assert names(jobs, "err") == []


@pytest.mark.parametrize("options", [{}, {"workers": 1}])
def test_a_job_that_fails_is_tried_again(jobs, options):
    with working(jobs, retries=2, **options):
        drop(jobs / "in" / "x", {"type": "fail", "name": "m"})
        until(lambda: names(jobs, "err") == ["x", "x.error"])

    assert len(marks(jobs, "m")) == 3
    assert "attempts: 3" in (jobs / "err" / "x.error").read_text()


@pytest.mark.parametrize("options", [{}, {"workers": 1}])
def test_a_job_that_takes_too_long_is_interrupted(jobs, options):
    with working(jobs, timeout=0.5, **options):
        drop(jobs / "in" / "x", {"type": "slow", "name": "m", "seconds": 3 if not options else 60})
        until(lambda: names(jobs, "err") == ["x", "x.error"])

    assert "did not end within 0.5 s" in (jobs / "err" / "x.error").read_text()


def test_in_processes_a_job_that_crashes_hurts_no_other(jobs):
    with working(jobs, workers=2):
        drop(jobs / "in" / "bad", {"type": "crash", "name": "bad"})
        for number in range(20):
            drop(jobs, {"type": "note", "name": f"good-{number}"})
        until(lambda: "bad.error" in names(jobs, "err"))
        until_empty(jobs)

    assert (
        "poison" in (jobs / "err" / "bad.error").read_text() and "SIGSEGV" in (jobs / "err" / "bad.error").read_text()
    )
    assert len(marks(jobs, "bad")) == 3
    assert [len(marks(jobs, f"good-{number}")) for number in range(20)] == [1] * 20
    assert names(jobs, "err") == ["bad", "bad.error"]


def test_a_gentle_stop_lets_what_runs_finish_and_hands_the_rest_back(jobs):
    with working(jobs, threads=1) as hermes:
        drop(jobs, {"type": "slow", "name": "runs", "seconds": 1})
        until(lambda: marks(jobs, "runs"))
        for number in range(5):
            drop(jobs / "in" / f"waits-{number}", {"type": "note", "name": "waits"})
        hermes.stop()
        assert not hermes.running

    assert marks(jobs, "runs.end") and not marks(jobs, "waits")
    assert names(jobs, "in") == [f"waits-{number}" for number in range(5)] and names(jobs, "work") == []


def test_it_may_be_started_again(jobs):
    with working(jobs) as hermes:
        pass
    with hermes:
        drop(jobs, {"type": "note", "name": "m"})
        until(lambda: marks(jobs, "m"))
    drop(jobs, {"type": "note", "name": "n"})
    hermes.run_until_idle()
    assert marks(jobs, "n")


@pytest.fixture
def slow_listing(monkeypatch):
    """A folder whose listing takes long, and which therefore is listed seldom."""
    scan = os.scandir

    def scan_slowly(path):
        if os.path.basename(os.path.normpath(path)) == "in":
            time.sleep(0.05)
        return scan(path)

    monkeypatch.setattr("skunkqueue.spool.inbox.os.scandir", scan_slowly)


@pytest.mark.usefixtures("slow_listing")
def test_what_came_while_nobody_watched_is_found_at_once(jobs):
    with working(jobs) as hermes:
        drop(jobs, {"type": "note", "name": "watched"})
        until(lambda: marks(jobs, "watched"))
        drop(jobs, {"type": "note", "name": "just now"})
        hermes.run_until_idle()
        assert marks(jobs, "just now")

    for number in range(3):
        drop(jobs, {"type": "note", "name": f"unwatched-{number}"})
        hermes.run_until_idle()
        assert marks(jobs, f"unwatched-{number}")


@pytest.mark.usefixtures("slow_listing")
@pytest.mark.parametrize("events", [True, False])
def test_a_burst_processes_what_its_own_jobs_drop(jobs, events):
    done = []

    def go_on(task):
        done.append(task["left"])
        if task["left"]:
            drop(jobs, {"type": "go on", "left": task["left"] - 1})

    hermes = Hermes(jobs, log=io.StringIO(), events=events)
    hermes.register({"go on": go_on})
    drop(jobs, {"type": "go on", "left": 5})
    hermes.run_until_idle()

    assert done == [5, 4, 3, 2, 1, 0]


def test_files_in_every_format_are_processed(jobs):
    with working(jobs):
        (jobs / "in" / "a").write_text(json.dumps({"type": "note", "name": "json"}))
        (jobs / "in" / "b").write_bytes(msgpack.packb({"type": "note", "name": "msgpack"}))
        (jobs / "in" / "c").write_bytes(pickle.dumps({"type": "note", "name": "pickle"}, 0))
        until(lambda: all(marks(jobs, name) for name in ("json", "msgpack", "pickle")))
        until_empty(jobs)


# death


SERVICE = """
import sys, spool_tasks
from skunkqueue.spool import Hermes
h = Hermes("jobs", lease=2, **{options!r})
h.register(spool_tasks.processors)
h.start()
"""


def drain_with_kills(jobs, count, options, kills, pause):
    """Two services on one folder, one of them killed again and again; gives the pids of what was killed."""
    os.makedirs(jobs / "in")
    for number in range(count):
        data = pickle.dumps({"type": "note", "name": f"m{number}", "pause": pause})
        (jobs / "in" / f"job-{number}").write_bytes(data)
    chance = random.Random(time.time_ns())
    killed = set()
    with contextlib.ExitStack() as stack:
        start = lambda: stack.enter_context(Program(jobs.parent, "-c", SERVICE.format(options=options)))  # noqa: E731
        start()
        while len(killed) < kills and (not killed or names(jobs, "in")):
            victim = start()
            until(lambda v=victim: "started, process" in v.log())
            time.sleep(chance.random() * 0.3)
            victim.process.kill()
            victim.process.wait(LIMIT)
            lines = [line for line in victim.log().splitlines() if "started, process" in line]
            killed |= {victim.process.pid, *(int(line.split()[-1]) for line in lines)}
        until(lambda: not names(jobs, "in") and not names(jobs, "work"), limit=120)
    return killed


@pytest.mark.parametrize("options", [{}, {"workers": 2}])
def test_after_kills_at_random_moments_every_file_has_been_processed(jobs, options):
    long = os.environ.get("SKUNKQUEUE_LONG_TESTS")
    count, kills, pause = (5000, 200, 0.01) if long else (1500, 9, 0.003)

    killed = drain_with_kills(jobs, count, options, kills, pause)

    assert names(jobs, "in") == names(jobs, "err") == names(jobs, "work") == []
    done = {number: marks(jobs, f"m{number}") for number in range(count)}
    assert all(done.values()), "a file was not processed"
    twice = [pids for pids in done.values() if len(pids) > 1]
    for pids in twice:  # by one that was killed, and then by another
        assert sum(int(pid) not in killed for pid in pids) <= 1, f"{pids}, of whom {killed} were killed"
    print(f"{len(killed)} killed, {len(twice)} of {count} processed twice")


def test_what_a_killed_process_held_is_taken_up_when_its_lease_ends(jobs):
    with Program(jobs.parent, "-c", SERVICE.format(options={"threads": 1})) as service:
        service.said("started, process")
        drop(jobs / "in" / "x", {"type": "slow", "name": "m", "seconds": 60})
        until(lambda: marks(jobs, "m"))
        (before,) = names(jobs, "work")
        service.process.kill()
        service.process.wait(LIMIT)

    with working(jobs) as hermes:
        hermes.register({"slow": spool_tasks.note})
        until(lambda: len(marks(jobs, "m")) == 2)
        until_empty(jobs)
    assert before.endswith(".x")
