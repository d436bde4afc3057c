"""Starting worker processes, and making sure that none outlives its pool."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from struct import pack_into
from typing import Any

from skunkqueue.connection import at_home
from skunkqueue.job import Carried
from skunkqueue.persistence.url import locate
from skunkqueue.worker import frames
from skunkqueue.worker.child.link import Ends, Link
from skunkqueue.worker.child.main import make, serve
from skunkqueue.worker.hook import Hook, shared_bytes

_START = (
    "import os,sys;sys.path[:]=os.environ.pop('SKUNKQUEUE_PATH').split(os.pathsep);"
    "from skunkqueue.worker.child.main import main;main()"
)

# Reads "+ group" and "- group" lines from the pool. When the pool has ended, in any way, kills the groups left.
_GUARD = """
trap '' HUP INT QUIT TERM
groups=' '
while read -r verb group; do
  case $verb in
    +) groups="$groups$group " ;;
    -) groups="${groups%% $group *} ${groups#* $group }" ;;
  esac
done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
"""

# The same, where there is no shell. It takes ten times the memory.
_GUARD_WITHOUT_SHELL = """
import os, signal, sys
for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
groups = set()
for line in sys.stdin:
    verb, group = line.split()
    (groups.add if verb == "+" else groups.discard)(int(group))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
"""

SHELL = "/bin/sh"


class Guard:
    """A small shell that outlives the pool by a moment, to kill the process groups of its workers."""

    def __init__(self) -> None:
        try:
            self._shell = _start_guard([SHELL, "-c", _GUARD, "skunkqueue-guard"])
        except OSError:  # a container without a shell
            self._shell = _start_guard([sys.executable, "-I", "-S", "-c", _GUARD_WITHOUT_SHELL])

    def watch(self, group: int) -> None:
        self._tell(f"+ {group}\n")

    def forget(self, group: int) -> None:
        self._tell(f"- {group}\n")

    def _tell(self, line: str) -> None:
        assert self._shell.stdin is not None
        with contextlib.suppress(OSError):
            self._shell.stdin.write(line.encode())
            self._shell.stdin.flush()

    def close(self) -> None:
        assert self._shell.stdin is not None
        with contextlib.suppress(OSError):
            self._shell.stdin.close()
        self._shell.wait()


def _start_guard(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )


class Pipes:
    """What connects a pool and one worker: two pipes of frames, a ticket socket, a control pipe, the shared horizon."""

    inbox: int
    to_worker: int
    from_worker: int
    outbox: int
    control: int
    interrupts: int
    tickets: socket.socket
    ticket_ends: socket.socket

    def __init__(self, horizon: float) -> None:
        with contextlib.ExitStack() as undo:  # descriptors may run out in between
            self.inbox, self.to_worker = _pipe(undo)
            self.from_worker, self.outbox = _pipe(undo)
            self.control, self.interrupts = _pipe(undo)
            self.tickets, self.ticket_ends = map(undo.enter_context, socket.socketpair())
            self.horizon: int = shared_bytes(8)
            undo.callback(os.close, self.horizon)
            self._map = mmap.mmap(self.horizon, 8)
            undo.pop_all()
        self.set_horizon(horizon)
        for fd in (self.to_worker, self.from_worker, self.interrupts):
            os.set_blocking(fd, False)
        self.tickets.setblocking(False)
        with contextlib.suppress(OSError, AttributeError):
            import fcntl

            for fd in (self.to_worker, self.outbox):
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 1 << 20)  # type: ignore[attr-defined, unused-ignore]

    def ends(self) -> Ends:
        """The worker's side."""
        return Ends(self.inbox, self.outbox, self.ticket_ends.fileno(), self.control, self.horizon)

    def set_horizon(self, until: float) -> None:
        """Tell the worker until when (clock.ticks) its leases are known to hold."""
        pack_into("<d", self._map, 0, until)

    def recall(self) -> set[int]:
        """Take back every ticket that the worker has not taken."""
        taken = b""
        with contextlib.suppress(BlockingIOError):
            while data := self.ticket_ends.recv(1 << 16, socket.MSG_DONTWAIT):
                taken += data
        return {frames.TICKET.unpack_from(taken, at)[0] for at in range(0, len(taken), 4)}

    def no_more(self) -> None:
        """Shut the ticket socket for writing: the worker ends after its current runs."""
        with contextlib.suppress(OSError):
            self.tickets.shutdown(socket.SHUT_WR)

    def close_worker_side(self) -> None:
        """Close the worker's ends once the worker has its own; the ticket end stays open, for recalls."""
        self._close(self.inbox, self.outbox, self.control, self.horizon)

    def close_pool_side(self) -> None:
        """Close the pool's ends after the worker is dead or given up; nothing more is read from it."""
        self._close(self.to_worker, self.from_worker, self.interrupts)
        self.tickets.close()
        self.ticket_ends.close()
        self._map.close()

    def _close(self, *fds: int) -> None:
        for fd in fds:
            os.close(fd)


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        undo.callback(os.close, end)
    return ends


class Process:
    """A worker in its own process, leading its own process group."""

    def __init__(self, setup: Mapping[str, Any], env: Mapping[str, str], guard: Guard, horizon: float) -> None:
        self.pipes: Pipes = Pipes(horizon)
        ends = self.pipes.ends()
        inherited = Hook.unpack(setup["hook"]).fds if setup.get("hook") else ()
        self._guard = guard
        child_env = {
            **os.environ,
            **env,
            "SKUNKQUEUE_PATH": os.pathsep.join(path for path in sys.path if isinstance(path, str)),
            "SKUNKQUEUE_CHILD": json.dumps({**setup, "ends": ends, "parent": os.getpid()}),
        }
        try:
            self._popen = subprocess.Popen(
                [sys.executable, *subprocess._args_from_interpreter_flags(), "-c", _START],  # type: ignore[attr-defined]
                pass_fds=(*ends, *inherited),
                stdin=subprocess.DEVNULL,
                env=child_env,
                process_group=0,
            )
        except BaseException:
            self.pipes.close_worker_side()
            self.pipes.close_pool_side()
            raise
        self.pid: int = self._popen.pid
        guard.watch(self.pid)
        self.pipes.close_worker_side()
        self.death: int = _pidfd(self.pid)

    def has_died(self) -> bool:
        return self._popen.poll() is not None

    def interrupt(self, number: int) -> None:
        """Interrupt the run of that number. The message names the run, so that no other run is interrupted."""
        with contextlib.suppress(OSError):
            os.write(self.pipes.interrupts, frames.TICKET.pack(number))
            self._popen.send_signal(signal.SIGURG)

    def kill(self) -> None:
        """End the worker and what its jobs started, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.kill()  # it may have left its group

    def reap(self) -> str:
        """Reap the process and kill what its jobs left running; returns how it died."""
        code = self._popen.wait()
        self.kill()
        self._guard.forget(self.pid)
        if self.death >= 0:
            os.close(self.death)
        self.pipes.close_pool_side()
        return how(code)


def how(code: int) -> str:
    """A return code in words: ``SIGKILL``, ``exit code 3``."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _pidfd(pid: int) -> int:
    """A descriptor that becomes readable when the process dies; -1 where the system has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


class Thread:
    """A worker on a thread of this process; can be interrupted, not killed."""

    death: int

    def __init__(self, setup: Mapping[str, Any], jobs: Mapping[str, Carried], name: str, horizon: float) -> None:
        self.pid: int = os.getpid()
        self._setup = setup
        self.pipes: Pipes = Pipes(horizon)
        self.death, self._dead = os.pipe()
        ends = self.pipes.ends()
        self._link = Link(ends._replace(tickets=os.dup(ends.tickets)))
        self._worker = make(self._link, setup, jobs=jobs, thread=True)
        self._given_up = False
        self._death = select.poll()  # select() takes no descriptor beyond 1023, and a program may have many
        self._death.register(self.death, select.POLLIN)
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        url = self._setup["url"]
        try:
            with at_home(locate(url) if url else None):
                serve(self._link, self._worker, self._setup)
        except (OSError, SystemExit):
            pass  # given up: its pipes are closed
        finally:
            self._link.tickets.close()
            os.close(self._dead)
            if self._given_up:
                self.pipes.close_worker_side()

    def has_died(self) -> bool:
        return self._given_up or bool(self._death.poll(0))

    def interrupt(self, number: int) -> None:
        self._worker.interrupt(number)

    def kill(self) -> None:
        """Threads cannot be killed: this one is abandoned, and its slot gets another."""
        self._given_up = True

    def reap(self) -> str:
        if not self._given_up:
            self._thread.join(5)
            self.pipes.close_worker_side()
        os.close(self.death)
        self.pipes.close_pool_side()
        return "given up" if self._given_up else "exit code 0"
