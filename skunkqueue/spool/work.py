"""The files in work/: claimed, waiting to be tried again, or left behind by a process that died.

The state of a run is in the name of its file::

    work/ID.RIPE.TOKEN.LAPSES.SLIP.NAME     a file, claimed by TOKEN until RIPE; without a token, waiting until RIPE
    work/.ID.SLIP                           what does not fit into its name: its notes, and a long NAME

A claim is taken, extended or given up by a rename of exactly that name: of several processes that try, one succeeds.
RIPE is in microseconds, on the clock of the file system.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgpack

from skunkqueue.clock import ticks
from skunkqueue.envelope import Claim
from skunkqueue.ids import new_token
from skunkqueue.spool.contents import Content
from skunkqueue.spool.kept import cut, move, size_of

MOST_NAME: Final = 150
"""Most bytes of a file's own name that its name in work/ holds; a longer name goes into its slip."""
ID_DIGITS: Final = 28
LEFT_FOR: Final = 60.0
"""Age in seconds from which a slip without a file is removed: a slip is written just before its file is renamed."""
LISTINGS: Final = 3
"""How often the folder is listed for the file of a slip: a listing may miss files that are renamed meanwhile."""
_LEFT_BEHIND: Final = re.compile(rf"\.([0-9a-f]{{{ID_DIGITS}}}\.[0-9a-f]{{8}}|(clock|probe)\.[0-9a-f]{{{ID_DIGITS}}})")


class WorkName(NamedTuple):
    """The name of a file in ``work/``, taken apart. Of a long ``name`` it holds the beginning."""

    id: str
    ripe: float
    token: str
    lapses: int
    slip: str
    name: str

    def __str__(self) -> str:
        id, ripe, token, lapses, slip, name = self
        return f"{id}{between(ripe, token, lapses, slip)}{name}"

    @property
    def slip_file(self) -> str:
        return f".{self.id}.{self.slip}"


def between(ripe: float, token: str, lapses: int = 0, slip: str = "") -> str:
    """The part between the id and the name."""
    return f".{int(ripe * 1000000):x}.{token}.{lapses:x}.{slip}."


def parse_name(file: str) -> WorkName | None:
    """Parse the name of a file in work/; None if it has another form."""
    fields = file.split(".", 5)
    if len(fields) != 6 or len(fields[0]) != ID_DIGITS:
        return None
    id, ripe, token, lapses, slip, name = fields
    try:
        return WorkName(id, int(ripe, 16) / 1000000, token, int(lapses, 16), slip, name)
    except ValueError:
        return None


class Slip(NamedTuple):
    """The notes and long name that do not fit into a file's name."""

    name: str
    notes: bytes

    def pack(self) -> bytes:
        packed: bytes = msgpack.packb((os.fsencode(self.name), self.notes))
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> Slip:
        """Raises ValueError if it is not a slip."""
        try:
            name, notes = msgpack.unpackb(data, use_list=False)
            return cls(os.fsdecode(name), bytes(notes))
        except Exception as error:
            raise ValueError(f"not a slip: {error}") from error


def new_slip() -> str:
    """A random part for the name of a slip."""
    return new_token()[:8]


_NOTHING: Final[dict[Any, Any]] = {}


class HeldFile:
    """A file that this process holds, or held."""

    __slots__ = ("body", "data", "file", "name", "notes", "size", "unread", "work_name")

    def __init__(self, work_name: WorkName, file: str, name: str, notes: bytes) -> None:
        self.work_name: WorkName = work_name
        self.file: str = file
        self.name: str = name
        self.notes: bytes = notes
        self.body: bytes = b""
        self.data: dict[Any, Any] = _NOTHING
        self.size: int = 0
        self.unread: bool = False  # it was handed out without being read


class Workroom:
    """Takes, extends and gives up files, each by one rename that succeeds for one process only.

    Methods that return bool return False if the file's name no longer has our token.
    """

    def __init__(self, folder: str, *, rescan: float) -> None:
        self.folder = folder
        self.held: dict[str, HeldFile] = {}
        self.size: int = 0
        self._rescan = rescan
        self._waiting: list[tuple[float, str]] = []  # files of the last listing, and those put back here, by ripe
        self._list_at = 0.0
        self._last_between: tuple[tuple[float, str, str], str] = ((0.0, "", ""), "")

    def path(self, held: HeldFile) -> str:
        return self.folder + held.file

    # taking

    def seize(self, path: str, id: str, name: str, token: str, until: float) -> HeldFile:
        """Take a file from outside. Raises OSError; FileNotFoundError if another process was faster."""
        work_name = WorkName(id, until, token, 0, "", name)
        if size_of(name) > MOST_NAME:
            work_name = work_name._replace(slip=new_slip(), name=cut(name, MOST_NAME))
            self._write_slip(work_name, name, b"")
        held = HeldFile(work_name, f"{id}{self._between(until, token, work_name.slip)}{work_name.name}", name, b"")
        try:
            os.rename(path, self.folder + held.file)
        except OSError:
            self._drop_slip(work_name)
            raise
        self.held[id] = held
        return held

    def _between(self, until: float, token: str, slip: str) -> str:
        """``between``, cached: most files of a claim have the same."""
        key = (until, token, slip)
        if self._last_between[0] != key:
            self._last_between = key, between(until, token, 0, slip)
        return self._last_between[1]

    def fill(self, held: HeldFile, body: bytes, content: Content, size: int) -> None:
        """Set the content of a file."""
        held.body, held.data, held.size = body, content.data, size
        self.size += size

    def fill_unread(self, held: HeldFile, body: bytes) -> None:
        """Set the body of a file that is handed out without being read."""
        held.body, held.size, held.unread = body, len(body), True
        self.size += held.size

    def begin(self, now: float) -> None:
        """Begin a claim: list the folder, if it is time."""
        began = ticks()
        if began >= self._list_at:
            files = os.listdir(self.folder)
            names = {file: name for file in files if (name := parse_name(file))}
            self._waiting = [(name.ripe, file) for file, name in names.items()]
            heapq.heapify(self._waiting)
            self._sweep(set(files).difference(names, (name.slip_file for name in names.values())), now)
            done = ticks()
            self._list_at = done + max(self._rescan, 20 * (done - began))

    def _sweep(self, files: Iterable[str], now: float) -> None:
        """Remove what killed processes have left: slips whose file is gone, and probes."""
        old = [file for file in files if _LEFT_BEHIND.fullmatch(file) and self._age(file, now) >= LEFT_FOR]
        for _ in range(LISTINGS if old else 0):
            there = {name.slip_file for file in os.listdir(self.folder) if (name := parse_name(file))}
            old = [file for file in old if file not in there]
        for file in old:
            with suppress(FileNotFoundError):
                os.unlink(self.folder + file)

    def _age(self, file: str, now: float) -> float:
        try:
            return now - os.lstat(self.folder + file).st_mtime
        except FileNotFoundError:
            return 0.0

    def retake(self, token: str, now: float, until: float) -> HeldFile | None:
        """Take the first ripe file; None if there is none."""
        while self._waiting and self._waiting[0][0] <= now:
            _, file = heapq.heappop(self._waiting)
            old = parse_name(file)
            assert old is not None
            work_name = old._replace(ripe=until, token=token, lapses=old.lapses + bool(old.token))
            held = HeldFile(work_name, str(work_name), work_name.name, b"")
            try:
                os.rename(self.folder + file, self.folder + held.file)
            except FileNotFoundError:
                continue
            self._read_slip(held)
            self._forget(held.work_name.id)
            self.held[work_name.id] = held
            return held
        return None

    def held_by(self, token: str) -> list[HeldFile]:
        return [held for held in self.held.values() if held.work_name.token == token]

    def find(self, claim: Claim) -> HeldFile | None:
        """The file of a claim; None if it is not held under the claim's token."""
        id, token = claim.envelope.id, claim.token
        held = self.held.get(id)
        if held is not None and held.work_name.token == token:
            return held
        for file in os.listdir(self.folder):  # claimed through another source of this folder
            if file.startswith(id) and (work_name := parse_name(file)) is not None and work_name.token == token:
                held = HeldFile(work_name, file, work_name.name, b"")
                self._read_slip(held)
                return held
        return None

    # keeping

    def extend(self, held: HeldFile, until: float) -> bool:
        work_name = held.work_name
        if until <= work_name.ripe:
            return self.is_there(held)
        return self._turn_into(held, work_name._replace(ripe=until))

    def note(self, held: HeldFile, notes: bytes) -> bool:
        """Store notes with a file."""
        return self._noted(held, held.work_name, notes)

    def is_there(self, held: HeldFile) -> bool:
        return os.path.lexists(self.path(held)) or self.lose(held)

    # giving up

    def remove(self, held: HeldFile) -> bool:
        """Delete a file whose run has ended."""
        try:
            os.unlink(self.folder + held.file)
        except FileNotFoundError:
            return self.lose(held)
        if held.work_name.slip:
            self._drop_slip(held.work_name)
        if self.held.pop(held.work_name.id, None) is not None:
            self.size -= held.size
        return True

    def release(self, held: HeldFile, due: float, notes: bytes) -> bool:
        """Give up the claim: any process may take the file from ``due`` on."""
        if not self._noted(held, held.work_name._replace(ripe=max(0.0, due), token=""), notes):
            return False
        self._forget(held.work_name.id)
        heapq.heappush(self._waiting, (held.work_name.ripe, held.file))
        return True

    def put_back(self, held: HeldFile, path: str) -> bool | None:
        """Move it out again, under its own name; None if another file has that name."""
        try:
            moved = move(self.path(held), path)
        except FileNotFoundError:
            return None if os.path.lexists(self.path(held)) else self.lose(held)
        if not moved:
            return None
        self.done(held)
        return True

    def done(self, held: HeldFile) -> None:
        """Forget a file that has left work/."""
        self._drop_slip(held.work_name)
        self._forget(held.work_name.id)

    def next_look(self, now: float) -> float:
        """Seconds until a known file is ripe, or the next listing is due."""
        ripe = self._waiting[0][0] - now if self._waiting else self._rescan
        return max(0.0, min(ripe, self._list_at - ticks()))

    # behind them

    def _noted(self, held: HeldFile, work_name: WorkName, notes: bytes) -> bool:
        """Rename it and store these notes. The new slip is written first; only the new file name refers to it."""
        old = held.work_name
        if notes != held.notes:
            work_name = work_name._replace(slip=new_slip() if notes or size_of(held.name) > MOST_NAME else "")
            if work_name.slip:
                self._write_slip(work_name, held.name, notes)
        if not self._turn_into(held, work_name):
            if work_name.slip != old.slip:
                self._drop_slip(work_name)
            return False
        if work_name.slip != old.slip:
            self._drop_slip(old)
        held.notes = notes
        return True

    def _turn_into(self, held: HeldFile, work_name: WorkName) -> bool:
        file = str(work_name)
        try:
            os.rename(self.path(held), self.folder + file)
        except FileNotFoundError:
            return self.lose(held)
        held.work_name, held.file = work_name, file
        return True

    def lose(self, held: HeldFile) -> bool:
        """Forget a file that is gone, or that another process has claimed. Returns False."""
        if self.held.get(held.work_name.id) is held:
            self._forget(held.work_name.id)
        return False

    def _forget(self, id: str) -> None:
        held = self.held.pop(id, None)
        if held is not None:
            self.size -= held.size

    def _write_slip(self, work_name: WorkName, name: str, notes: bytes) -> None:
        with open(self.folder + work_name.slip_file, "wb") as file:
            file.write(Slip(name, notes).pack())

    def _read_slip(self, held: HeldFile) -> None:
        if not held.work_name.slip:
            return
        # Without a readable slip, the notes and the end of a long name are lost; the job is run all the same.
        with suppress(OSError, ValueError), open(self.folder + held.work_name.slip_file, "rb") as file:
            slip = Slip.unpack(file.read())
            held.name, held.notes = slip.name, slip.notes

    def _drop_slip(self, work_name: WorkName) -> None:
        if work_name.slip:
            with suppress(FileNotFoundError):
                os.unlink(self.folder + work_name.slip_file)
