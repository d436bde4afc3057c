"""The spool folder as a source of claims: a claim is a rename, a commit an unlink or a move to err/."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import msgpack

from skunkqueue.envelope import Claim, Envelope, Exchange, Outcome, Want
from skunkqueue.ids import new_id
from skunkqueue.notes import decode_notes
from skunkqueue.persistence import Key, Source, WorkKey
from skunkqueue.spool.contents import Content, parse
from skunkqueue.spool.files import (
    ERR,
    IN,
    OPEN,
    WORK,
    Unreadable,
    file_time,
    is_passing,
    make_folders,
    no_file,
    on,
)
from skunkqueue.spool.inbox import MOMENT, MOST_SIZE, Candidate, FolderEvents, Inbox, Looker, looks_of
from skunkqueue.spool.kept import Report, keep_in_err
from skunkqueue.spool.reading import NOT_READ, UNREAD
from skunkqueue.spool.work import HeldFile, Workroom
from skunkqueue.worker import ERROR

RESCAN: Final = 1.0
"""Seconds after which the folder is listed without an event: on some mounts there are none."""
MOST_HELD: Final = 64 << 20
"""Bytes of held files from which on a claim takes no more."""

Make = Callable[[Content, str], bytes]
"""Makes an envelope's body of a file's content and the run's id. Raises SkunkError if no processor takes it."""
MakeUnread = Callable[[str, int, bool], bytes]
"""Makes a body for a file that the worker is to read, of its name in work/, its size, and whether it was quiet."""


class SpoolSource(Source):
    """Claims on the files of a spool folder; any number of processes may have one on the same folder.

    ``make`` turns content into a body. What is no job is moved to err/ by ``claim`` itself. With ``make_unread`` files
    that have lain there for a while are handed out without a look into them: a worker gives their type as the result,
    or NOT_READ for all that does not go well before it is processed; then they are looked at here. ``moment`` is how
    long a file that breaks off must stay unchanged before it is an error; ``rescan`` how often the folder is listed
    although no event came; without ``events`` it is found by listing alone.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        make: Make,
        *,
        make_unread: MakeUnread | None = None,
        max_size: int = MOST_SIZE,
        moment: float = MOMENT,
        rescan: float = RESCAN,
        events: bool = True,
        say: Callable[..., None] = lambda line, **fields: None,
    ) -> None:
        self.url: str = os.path.abspath(os.fspath(path))
        self._make = make
        self._make_unread = make_unread
        self._say = say
        for folder in make_folders(self.url):
            say(f"made the folder {folder}")
        self._in, self._err, work = (os.path.join(self.url, name) + os.sep for name in (IN, ERR, WORK))
        self._room = Workroom(work, rescan=rescan)
        self._inbox = Inbox(self._in, rescan=rescan, say=say)
        with on(self.url):
            self._looker = Looker(self._inbox, work, max_size=max_size, moment=moment)
        self._watcher = FolderEvents(self._in, events=events, say=say)
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._taken: set[str] = set()
        self.names: dict[str, str] = {}
        self.types: dict[str, str] = {}  # of files that were handed out unread; empty where they were not processed

    def data_of(self, id: str) -> dict[Any, Any]:
        """The dictionary of a file that is held here. Raises KeyError."""
        return self._room.held[id].data

    @property
    def work(self) -> str:
        """The folder of the held files, with a separator at its end."""
        return self._room.folder

    @property
    def can_lease(self) -> bool:
        """Whether the file system can tell that a file is open for writing."""
        return self._looker.can_lease

    # claim

    def claim(self, wants: Sequence[Want], *, now: float, until: float) -> list[Claim]:
        with self._lock, on(self.url):
            self._inbox.begin(anyway=not self._watcher.has_events)
            self._room.begin(now)
            return [claim for want in wants for claim in self._claim(want, now, until)]

    def _claim(self, want: Want, now: float, until: float) -> Iterator[Claim]:
        left = want.limit
        if want.repeated:
            for mine in self._room.held_by(want.token)[:left]:
                if self._room.extend(mine, until):
                    left -= 1
                    yield self._claim_of(mine, want, now)
        for find in (self._again, self._anew):
            while left and self._room.size < MOST_HELD and (held := find(want.token, now, until)):
                left -= 1
                yield self._claim_of(held, want, now)

    def _claim_of(self, held: HeldFile, want: Want, now: float) -> Claim:
        work_name = held.work_name
        envelope = Envelope(work_name.id, want.queue, want.queue, now, held.body)
        return Claim(envelope, work_name.token, want.worker, work_name.ripe, work_name.lapses, held.notes)

    def _anew(self, token: str, now: float, until: float) -> HeldFile | None:
        """Take the next file of in/ that is a job."""
        while (candidate := self._inbox.next()) is not None:
            if not stat.S_ISREG(candidate.mode):
                self._refuse(candidate.name, no_file(candidate.mode), now)
                continue
            aged = self._looker.is_aged(candidate, now)
            held = (self._take_first if aged else self._look_first)(candidate, token, now, until)
            if held is not None:
                return held
        return None

    def _take_first(self, candidate: Candidate, token: str, now: float, until: float) -> HeldFile | None:
        """Take a file that is old enough, and read it then; it is put back if it is incomplete."""
        held = self._seize(new_id(now), candidate.name, token, until)
        if held is None:
            return None
        if self._make_unread is None:
            return self._look_at_taken(held, candidate, now)
        quiet = self._looker.was_quiet(candidate, now)
        self._room.fill_unread(held, self._make_unread(held.file, candidate.size, quiet))
        self.names[held.work_name.id] = held.name
        return held

    def _look_at_taken(self, held: HeldFile, candidate: Candidate, now: float) -> HeldFile | None:
        kind = ""
        try:
            content = self._looker.look_at_taken(self._room.folder + held.file, candidate, now)
            if content is None:
                self._put_back(held, now)
                return None
            kind = content.type
            self._fill(held, content, candidate.size)
        except Exception as error:
            if is_passing(error):
                self._put_back(held, now)
                raise
            self._refuse_held(held, error, kind)
            return None
        return held

    def _look_first(self, candidate: Candidate, token: str, now: float, until: float) -> HeldFile | None:
        """Read a file where it is, before it is taken: its writer may still need it under its name."""
        name = candidate.name
        try:
            fd = os.open(self._in + name, OPEN)
        except OSError as error:
            self._cannot_open(name, error, now)
            return None
        try:
            return self._take(fd, name, token, now, until)
        finally:
            os.close(fd)

    def _take(self, fd: int, name: str, token: str, now: float, until: float) -> HeldFile | None:
        """Take an open file, if it is complete and still the one at its name."""
        try:
            seen = self._looker.look(fd, name, now)
        except Exception as error:  # a foreign file may cause any error
            if is_passing(error):
                raise
            self._refuse(name, error, now)
            return None
        held = None if seen is None else self._seize(new_id(now), name, token, until)
        if held is None or seen is None:
            return None
        if self._looker.was_replaced(fd, seen, self._room.path(held)):
            self._put_back(held, now)
            return None
        try:
            self._fill(held, seen.content, seen.size)
        except Exception as error:
            self._refuse_held(held, error, seen.content.type)
            return None
        return held

    def _fill(self, held: HeldFile, content: Content, size: int) -> None:
        """Set the content of a held file. Raises if no processor takes it."""
        self._room.fill(held, self._make(content, held.work_name.id), content, size)
        self.names[held.work_name.id] = held.name

    def _seize(self, id: str, name: str, token: str, until: float) -> HeldFile | None:
        """Take a file by its name, whatever it is; None if it is gone or may not be moved."""
        try:
            held = self._room.seize(self._in + name, id, name, token, until)
        except FileNotFoundError:
            if os.path.lexists(self._in + name):
                raise  # it is work/ that is gone
            held = None
        except PermissionError as error:
            if not os.access(self._in, os.W_OK):
                raise
            if self._inbox.set_aside(name):
                self._say(f"in/{name} cannot be taken, trying again every now and then: {error.strerror}")
            return None
        self._inbox.forget(name)
        return held

    def _cannot_open(self, name: str, error: OSError, now: float) -> None:
        path = self._in + name
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            self._inbox.forget(name)
            return
        if stat.S_ISDIR(status.st_mode):
            self._inbox.leave(name)
        elif not stat.S_ISREG(status.st_mode):
            self._refuse(name, no_file(status.st_mode), now)
        elif error.errno not in (errno.EACCES, errno.EPERM):
            raise error
        elif self._looker.is_quiet(name, status, now):
            self._refuse(name, Unreadable(f"it cannot be read: {error.strerror}"), now)
        else:
            self._inbox.postpone(name, looks_of(status))

    def _refuse(self, name: str, error: Exception, now: float) -> None:
        """Move a file that is no job to err/."""
        held = self._seize(new_id(now), name, "refused", now + 60)
        if held is not None:
            self._refuse_held(held, error)

    def _refuse_held(self, held: HeldFile, error: Exception, kind: str = "") -> None:
        report = Report.of(error, held.name, kind, held.work_name.id, decode_notes(held.notes).starts)
        self._keep(held, report)
        self._say(f"in/{held.name} goes to err/: {report.why}", what="refused", level=ERROR, error=report.why)

    def _keep(self, held: HeldFile, report: Report) -> bool:
        kept = keep_in_err(self._room.path(held), self._err, report)
        self._room.done(held)
        return kept is not None

    def _again(self, token: str, now: float, until: float) -> HeldFile | None:
        """Take a file of work/ that waited, or whose lease has ended."""
        while (held := self._room.retake(token, now, until)) is not None:
            kind = ""
            try:
                data = self._reread(held)
                content = parse(data)
                kind = content.type
                self._fill(held, content, len(data))
            except FileNotFoundError:
                self._room.done(held)
            except Exception as error:
                if is_passing(error):
                    raise
                self._refuse_held(held, error, kind)
            else:
                return held
        return None

    def _reread(self, held: HeldFile) -> bytes:
        fd = os.open(self._room.path(held), OPEN)
        try:
            data = self._looker.read(fd, os.fstat(fd))
        finally:
            os.close(fd)
        if data is None:
            raise Unreadable("it changes while it is read")
        return data

    # keep, give back, end

    def extend(self, claims: Sequence[Claim], *, until: float) -> set[str]:
        with self._lock, on(self.url):
            found = [(claim.id, self._room.find(claim)) for claim in claims]
            return {id for id, held in found if held is not None and self._room.extend(held, until)}

    def commit(self, outcomes: Sequence[tuple[Claim, Outcome]], *, now: float) -> set[str]:
        with self._lock, on(self.url):
            self._inbox.doubt()
            # What was taken before an error broke off is remembered for the repetition: its file is gone.
            taken = self._taken
            for claim, outcome in outcomes:
                id = claim.envelope.id
                if id not in taken:
                    if self._commit(claim, outcome, now):
                        taken.add(id)
                    else:
                        self.names.pop(id, None)
                        self.types.pop(id, None)
            self._taken = set()
            return {claim.envelope.id for claim, _ in outcomes} & taken

    def _commit(self, claim: Claim, outcome: Outcome, now: float) -> bool:
        held = self._room.find(claim)
        if held is None:
            return False
        kind = outcome.kind
        if kind == "complete" and outcome.value == NOT_READ:
            return self._look_after_all(held, now)
        if held.unread and kind != "progress":
            self._learn_type(held, outcome)
        if kind == "complete":
            return self._room.remove(held)
        if kind == "failed":
            return self._failed(held, outcome)
        if kind == "progress":
            return self._room.is_there(held)
        notes = held.notes if outcome.notes is None else outcome.notes
        if kind == "started":
            return self._room.note(held, notes)
        if kind == "untouched" and not notes and not held.work_name.lapses:
            return self._put_back(held, now)
        due = claim.envelope.due if kind == "untouched" or outcome.due is None else outcome.due
        return self._room.release(held, due, notes)

    def _failed(self, held: HeldFile, outcome: Outcome) -> bool:
        details: dict[str, Any] = {}
        with suppress(Exception):
            details = msgpack.unpackb((outcome.value or b"")[1:])
        notes = decode_notes(held.notes if outcome.notes is None else outcome.notes)
        kind = str(held.data.get("type", ""))
        why = outcome.error or "it failed"
        report = Report(held.name, why, kind, held.work_name.id, notes.starts, str(details.get("traceback", "")))
        return self._keep(held, report)

    def _learn_type(self, held: HeldFile, outcome: Outcome) -> None:
        """Learn the type of a file that was handed out unread: from the result if it succeeded, else from the file."""
        if outcome.kind == "complete":
            type = msgpack.unpackb((outcome.value or NOT_READ)[1:])
        else:
            with suppress(Exception):
                held.data = parse(self._reread(held)).data
            type = held.data.get("type", UNREAD)
        self.types[held.work_name.id] = str(type)

    def _look_after_all(self, held: HeldFile, now: float) -> bool:
        """Handle a file that a worker could not process: as if it had been read here first."""
        self.types[held.work_name.id] = ""
        try:
            status = os.lstat(self._room.path(held))
        except FileNotFoundError:
            return self._room.lose(held)
        candidate = Candidate(status.st_mtime, held.name, status.st_mode, status.st_size)
        if not self._looker.is_aged(candidate, now):
            return self._put_back(held, now)
        looked = self._look_at_taken(held, candidate, now)
        return looked is None or self._room.release(held, now, held.notes)

    def _put_back(self, held: HeldFile, now: float) -> bool:
        """Move it back to in/, under its own name; if that name is taken by now, it waits in work/."""
        took = self._room.put_back(held, self._in + held.name)
        if took is None:
            return self._room.release(held, now, held.notes)
        if took:
            self._inbox.back(held.name)
        return took

    def exchange(
        self, outcomes: Sequence[tuple[Claim, Outcome]], wants: Sequence[Want], *, now: float, until: float
    ) -> Exchange:
        with self._lock:
            taken = self.commit(outcomes, now=now) if outcomes else set()
            claims = self.claim(wants, now=now, until=until) if wants else []
            pause = min(self._inbox.next_look(), self._room.next_look(now))
            full = len(claims) >= sum(want.limit for want in wants) or self._room.size >= MOST_HELD
            return Exchange(taken, claims, now if full else now + pause)

    # wait

    def wait(self, keys: Sequence[Key], timeout: float) -> None:
        if not any(isinstance(key, WorkKey) for key in keys):
            self._closed.wait(timeout)
        elif self._watcher.wait(timeout):
            self._inbox.news = True

    def offset(self) -> float | None:
        """How far the clock of the file system is ahead of ours. All processes that share the folder use that clock."""
        with on(self.url):
            began = time.time()
            there = file_time(self._room.folder)
            here = time.time()
        # The file system's time is coarse, and asking takes time: a difference within that is ignored.
        if began - 0.02 <= there <= here + 0.02:
            return 0.0
        return there - (began + here) / 2

    def look_anew(self) -> None:
        """Have the next claim list the folder, however short a while ago that was done."""
        self._inbox.news = True

    def wake(self) -> None:
        """End ``wait`` before its time, until ``close``. May be called by a signal's handler."""
        self._watcher.wake()

    def close(self) -> None:
        self._closed.set()
        self._watcher.close()
        self.look_anew()  # what comes from now on makes no event
        self._closed.clear()
