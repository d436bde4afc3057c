"""The key file: one for all who make it at once, and none that another user may know."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from skunkqueue import SkunkQueue
from skunkqueue.codec import CALL, Keys
from skunkqueue.errors import WrongCall

WITHOUT_LINKS = """
def refuse(*args, **options):
    raise OSError(95, "this file system has no hard links")
os.link = refuse
"""

SLOW_RENAME = """
rename = os.rename
def slowly(*names):
    time.sleep(0.2)
    rename(*names)
os.rename = slowly
"""

MAKER = """
import os, sys, time
from skunkqueue import keys
{changes}
print("ready", flush=True)
sys.stdin.readline()
print(keys.Keys.load(), flush=True)
"""


@pytest.fixture
def key_path(tmp_path, monkeypatch):
    monkeypatch.delenv("SKUNKQUEUE_KEY", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "skunkqueue" / "key"


def test_without_a_key_one_is_made_for_this_user_alone(key_path):
    first, second = Keys.load(), Keys.load()

    second.verify(CALL, b"x", first.sign(CALL, b"x"))
    assert stat.S_IMODE(key_path.stat().st_mode) == 0o600
    assert os.listdir(key_path.parent) == ["key"]


def test_a_key_file_that_others_can_read_is_refused(key_path):
    Keys.load()
    key_path.chmod(0o640)

    with pytest.raises(WrongCall, match=r"open to others \(mode 640\): chmod 600"):
        Keys.load()


def test_an_empty_key_file_is_refused(key_path):
    Keys.load()
    key_path.write_text("")

    with pytest.raises(WrongCall, match="is empty"):
        Keys.load()


def test_a_key_file_that_cannot_be_made_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("SKUNKQUEUE_KEY", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))

    with pytest.raises(WrongCall, match="set SKUNKQUEUE_KEY instead"):
        Keys.load()


def made_at_once(makers, changes):
    """The keys of so many processes that all wait until the last is ready."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", MAKER.format(changes=changes)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(makers)
    ]  # fmt: skip
    for maker in running:
        assert maker.stdout.readline() == "ready\n"
    for maker in running:
        maker.stdin.write("\n")
        maker.stdin.flush()
    return {maker.communicate(timeout=60)[0] for maker in running}


@pytest.mark.parametrize("changes", ["", WITHOUT_LINKS, WITHOUT_LINKS + SLOW_RENAME], ids=["links", "no links", "slow"])
def test_processes_that_make_the_key_at_once_agree(key_path, changes):
    seen = made_at_once(12, changes)

    assert seen == {f"{Keys.load()!r}\n"}
    assert os.listdir(key_path.parent) == ["key"]


@pytest.mark.parametrize("has_links", [True, False])
def test_threads_that_make_the_key_at_once_agree(key_path, monkeypatch, has_links):
    if not has_links:
        monkeypatch.setattr(os, "link", no_links)
    barrier = threading.Barrier(16)

    def load(_):
        barrier.wait(30)
        return repr(Keys.load())

    with ThreadPoolExecutor(16) as threads:
        seen = set(threads.map(load, range(16)))

    assert seen == {repr(Keys.load())}
    assert os.listdir(key_path.parent) == ["key"]


def no_links(*args, **options):
    raise OSError(95, "this file system has no hard links")


def test_where_there_are_neither_links_nor_locks_no_key_is_made(key_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(fcntl, "flock", no_links)

    with pytest.raises(WrongCall, match="set SKUNKQUEUE_KEY instead"):
        Keys.load()

    assert os.listdir(key_path.parent) == []


def test_where_there_are_no_locks_a_link_makes_the_key(key_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", no_links)

    Keys.load().verify(CALL, b"x", Keys.load().sign(CALL, b"x"))


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o610, 0o601])
def test_a_key_file_that_is_open_in_any_way_is_refused(key_path, mode):
    Keys.load()
    key_path.chmod(mode)

    with pytest.raises(WrongCall, match=rf"open to others \(mode {mode:o}\): chmod 600 it, or set SKUNKQUEUE_KEY"):
        Keys.load()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_a_key_file_of_another_user_is_refused(key_path):
    Keys.load()
    os.chown(key_path, 12345, -1)

    with pytest.raises(WrongCall, match=r"another user \(uid 12345, this process has 0\): .*set SKUNKQUEUE_KEY"):
        Keys.load()


def test_a_key_file_of_nobody_we_are_is_refused(key_path, monkeypatch):
    Keys.load()
    monkeypatch.setattr(os, "geteuid", lambda: 54321)

    with pytest.raises(WrongCall, match="this process has 54321"):
        Keys.load()


def test_a_folder_where_everybody_can_replace_the_key_is_refused(key_path):
    Keys.load()
    key_path.parent.chmod(0o777)

    with pytest.raises(WrongCall, match=r"everybody can replace the key file .*: chmod 700 the folder"):
        Keys.load()

    key_path.parent.chmod(0o1777)  # sticky: only its owner can replace it
    Keys.load()


@pytest.mark.parametrize("home", [None, "relative"])
def test_without_a_home_one_sentence_names_what_to_set_and_no_folder_is_made(monkeypatch, tmp_path, home):
    def no_entry(_):
        raise KeyError("uid not found")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SKUNKQUEUE_KEY")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.delenv("HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    monkeypatch.setattr("pwd.getpwuid", no_entry)

    with pytest.raises(WrongCall, match="no home folder: set SKUNKQUEUE_KEY, or HOME"):
        Keys.load()
    with pytest.raises(WrongCall, match="no home folder: set SKUNKQUEUE_URL, or HOME"):
        SkunkQueue("homeless").count()
    assert os.listdir(tmp_path) == []
