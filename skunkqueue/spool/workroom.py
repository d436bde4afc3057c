"""The files in work/: claimed, waiting to be tried again, or left behind by a process that died."""

from __future__ import annotations

import heapq
import os
from contextlib import suppress
from typing import Any, Final

from skunkqueue.clock import ticks
from skunkqueue.envelope import Claim
from skunkqueue.spool import ticket as tickets
from skunkqueue.spool.contents import Content
from skunkqueue.spool.kept import move
from skunkqueue.spool.ticket import MOST_NAME, Slip, Ticket, between, cut, new_slip, size_of

_NOTHING: Final[dict[Any, Any]] = {}


class HeldFile:
    """A file in our hands, or one that was."""

    __slots__ = ("body", "data", "file", "name", "notes", "size", "ticket", "unread")

    def __init__(self, ticket: Ticket, file: str, name: str, notes: bytes) -> None:
        self.ticket = ticket
        self.file = file
        self.name = name
        self.notes = notes
        self.body = b""
        self.data = _NOTHING
        self.size = 0
        self.unread = False  # nobody has looked into it yet


class Workroom:
    """Takes, keeps and gives up tickets, each by one rename that succeeds for one only.

    Where a method says whether it took, False means that the ticket no longer bears our token.
    """

    def __init__(self, folder: str, *, rescan: float) -> None:
        self.folder = folder
        self.held: dict[str, HeldFile] = {}
        self.size = 0
        self._rescan = rescan
        self._waiting: list[tuple[float, str]] = []  # all tickets as of the last listing, and ours that wait, by ripe
        self._list_at = 0.0
        self._last_between: tuple[tuple[float, str, str], str] = ((0.0, "", ""), "")

    def path(self, held: HeldFile) -> str:
        return self.folder + held.file

    # taking

    def seize(self, path: str, id: str, name: str, token: str, until: float) -> HeldFile:
        """Take a file from outside. Raises OSError, FileNotFoundError where somebody else was faster."""
        ticket = Ticket(id, until, token, 0, "", name)
        if size_of(name) > MOST_NAME:
            ticket = ticket._replace(slip=new_slip(), name=cut(name, MOST_NAME))
            self._write_slip(ticket, name, b"")
        held = HeldFile(ticket, f"{id}{self._between(until, token, ticket.slip)}{ticket.name}", name, b"")
        try:
            os.rename(path, self.folder + held.file)
        except OSError:
            self._drop_slip(ticket)
            raise
        self.held[id] = held
        return held

    def _between(self, until: float, token: str, slip: str) -> str:
        """What most files of a claim have in their name, made once."""
        key = (until, token, slip)
        if self._last_between[0] != key:
            self._last_between = key, between(until, token, 0, slip)
        return self._last_between[1]

    def fill(self, held: HeldFile, body: bytes, content: Content, size: int) -> None:
        """Say what is in it."""
        held.body, held.data, held.size = body, content.data, size
        self.size += size

    def fill_unread(self, held: HeldFile, body: bytes) -> None:
        """It is handed out without a look into it."""
        held.body, held.size, held.unread = body, len(body), True
        self.size += held.size

    def begin(self) -> None:
        """A claim begins: list what lies here, when it is time."""
        now = ticks()
        if now >= self._list_at:
            found = [(ticket.ripe, file) for file in os.listdir(self.folder) if (ticket := tickets.parse(file))]
            heapq.heapify(found)
            self._waiting = found
            done = ticks()
            self._list_at = done + max(self._rescan, 20 * (done - now))

    def retake(self, token: str, now: float, until: float) -> HeldFile | None:
        """Take the first ticket that is ripe; None where none is."""
        while self._waiting and self._waiting[0][0] <= now:
            _, file = heapq.heappop(self._waiting)
            old = tickets.parse(file)
            assert old is not None
            ticket = old._replace(ripe=until, token=token, lapses=old.lapses + bool(old.token))
            held = HeldFile(ticket, str(ticket), ticket.name, b"")
            try:
                os.rename(self.folder + file, self.folder + held.file)
            except FileNotFoundError:
                continue
            self._read_slip(held)
            self._forget(held.ticket.id)
            self.held[ticket.id] = held
            return held
        return None

    def held_by(self, token: str) -> list[HeldFile]:
        return [held for held in self.held.values() if held.ticket.token == token]

    def find(self, claim: Claim) -> HeldFile | None:
        """The file of a claim; None where it is no longer, or was never, held under its token."""
        id, token = claim.envelope.id, claim.token
        held = self.held.get(id)
        if held is not None and held.ticket.token == token:
            return held
        for file in os.listdir(self.folder):  # claimed through another source of this folder
            if file.startswith(id) and (ticket := tickets.parse(file)) is not None and ticket.token == token:
                held = HeldFile(ticket, file, ticket.name, b"")
                self._read_slip(held)
                return held
        return None

    # keeping

    def extend(self, held: HeldFile, until: float) -> bool:
        ticket = held.ticket
        if until <= ticket.ripe:
            return self.is_there(held)
        return self._turn_into(held, ticket._replace(ripe=until))

    def note(self, held: HeldFile, notes: bytes) -> bool:
        """Keep notes with it."""
        return self._noted(held, held.ticket, notes)

    def is_there(self, held: HeldFile) -> bool:
        return os.path.lexists(self.path(held)) or self.lose(held)

    # giving up

    def remove(self, held: HeldFile) -> bool:
        """It is done."""
        try:
            os.unlink(self.folder + held.file)
        except FileNotFoundError:
            return self.lose(held)
        if held.ticket.slip:
            self._drop_slip(held.ticket)
        if self.held.pop(held.ticket.id, None) is not None:
            self.size -= held.size
        return True

    def release(self, held: HeldFile, due: float, notes: bytes) -> bool:
        """It waits until then, for whoever comes."""
        if not self._noted(held, held.ticket._replace(ripe=max(0.0, due), token=""), notes):
            return False
        self._forget(held.ticket.id)
        heapq.heappush(self._waiting, (held.ticket.ripe, held.file))
        return True

    def put_back(self, held: HeldFile, path: str) -> bool | None:
        """Move it out again, as it came; None where another of its name is there."""
        try:
            moved = move(self.path(held), path)
        except FileNotFoundError:
            return None if os.path.lexists(self.path(held)) else self.lose(held)
        if not moved:
            return None
        self.done(held)
        return True

    def done(self, held: HeldFile) -> None:
        """It is no longer here."""
        self._drop_slip(held.ticket)
        self._forget(held.ticket.id)

    def next_look(self, now: float) -> float:
        """Seconds until a ticket that is known of is ripe, or the next listing is due."""
        ripe = self._waiting[0][0] - now if self._waiting else self._rescan
        return max(0.0, min(ripe, self._list_at - ticks()))

    # behind them

    def _noted(self, held: HeldFile, ticket: Ticket, notes: bytes) -> bool:
        """Turn into another ticket with these notes; the slip is written first, and known by what it belongs to."""
        old = held.ticket
        if notes != held.notes:
            ticket = ticket._replace(slip=new_slip() if notes or size_of(held.name) > MOST_NAME else "")
            if ticket.slip:
                self._write_slip(ticket, held.name, notes)
        if not self._turn_into(held, ticket):
            if ticket.slip != old.slip:
                self._drop_slip(ticket)
            return False
        if ticket.slip != old.slip:
            self._drop_slip(old)
        held.notes = notes
        return True

    def _turn_into(self, held: HeldFile, ticket: Ticket) -> bool:
        file = str(ticket)
        try:
            os.rename(self.path(held), self.folder + file)
        except FileNotFoundError:
            return self.lose(held)
        held.ticket, held.file = ticket, file
        return True

    def lose(self, held: HeldFile) -> bool:
        """Somebody else has it, or had."""
        if self.held.get(held.ticket.id) is held:
            self._forget(held.ticket.id)
        return False

    def _forget(self, id: str) -> None:
        held = self.held.pop(id, None)
        if held is not None:
            self.size -= held.size

    def _write_slip(self, ticket: Ticket, name: str, notes: bytes) -> None:
        with open(self.folder + ticket.slip_file, "wb") as file:
            file.write(Slip(name, notes).pack())

    def _read_slip(self, held: HeldFile) -> None:
        if not held.ticket.slip:
            return
        # A slip that is gone or torn costs the notes, and the end of a long name; the job is run all the same.
        with suppress(OSError, ValueError), open(self.folder + held.ticket.slip_file, "rb") as file:
            slip = Slip.unpack(file.read())
            held.name, held.notes = slip.name, slip.notes

    def _drop_slip(self, ticket: Ticket) -> None:
        if ticket.slip:
            with suppress(FileNotFoundError):
                os.unlink(self.folder + ticket.slip_file)
