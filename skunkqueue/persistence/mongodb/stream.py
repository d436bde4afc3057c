"""The change stream of a process: says at once what happened to the runs and workers of a database, on a replica set.

It is a hint: the waits look for themselves afterwards, and look now and then without it. So events that are missed
while it is being opened anew cost time, and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pymongo.errors import PyMongoError

from skunkqueue.errors import StoreError
from skunkqueue.persistence.mongodb.connect import RUNS, WORKERS

AWAIT_MS: Final = 1000
"""Milliseconds that the server waits for an event before it answers that there is none."""

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
"""Seconds between attempts to open the stream."""

PIPELINE: Final[Sequence[Mapping[str, Any]]] = (
    {
        "$match": {
            "ns.coll": {"$in": [RUNS, WORKERS]},
            "$or": [
                {"operationType": "insert"},
                {"updateDescription.updatedFields.state": {"$in": ["queued", "succeeded", "failed", "cancelled"]}},
                {"updateDescription.updatedFields.by": {"$exists": True}},
                {"updateDescription.updatedFields.told": {"$exists": True}},
                {"operationType": {"$in": ["invalidate", "drop", "dropDatabase"]}},
            ],
        }
    },
    {
        "$project": {
            "operationType": 1, "ns.coll": 1, "documentKey._id": 1,
            "fullDocument.queue": 1, "fullDocument.route": 1, "fullDocument.ripe": 1,
            "updateDescription.updatedFields.state": 1,
        }
    },
)  # fmt: skip
"""What of the database is announced, and how much of it. Claims, leases, progress and beats are not."""


class News(NamedTuple):
    """What an event says, as far as it says it: a run that ripens on a route, a run that ended, a worker's orders."""

    route: tuple[str, str] | None = None
    ripe: float = 0.0
    ended: str = ""
    worker: Any = None


ANYTHING: Final = News()
"""Anything may have happened."""


def read_event(event: Mapping[str, Any]) -> News:
    """What an event of the stream says."""
    id = event.get("documentKey", {}).get("_id")
    if event.get("ns", {}).get("coll") == WORKERS:
        return News(worker=id)
    document = event.get("fullDocument")
    if document:
        return News((str(document.get("queue")), str(document.get("route"))), float(document.get("ripe") or 0.0))
    state = event.get("updateDescription", {}).get("updatedFields", {}).get("state")
    return News(ended=str(id)) if state in ("succeeded", "failed", "cancelled") else ANYTHING


class Stream:
    """Opens the change stream on a thread of its own, and again when it ends. ``is_live`` while it is open.

    ``watch`` opens one; ``tell`` is called with what each event says, and with ``ANYTHING`` whenever it was opened.
    """

    def __init__(self, watch: Callable[[], Any], tell: Callable[[News], None]) -> None:
        self.is_live: bool = False
        self._watch = watch
        self._tell = tell
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="skunkqueue-stream", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it. Its thread ends within a second, or when the client is closed."""
        self._closing.set()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._closing.is_set():
            try:
                with self._watch() as stream:
                    pause = FIRST_PAUSE
                    self._follow(stream)
            except (PyMongoError, StoreError):
                pass  # the driver resumes by itself where it can; here it could not
            self.is_live = False
            self._closing.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _follow(self, stream: Any) -> None:
        self.is_live = True
        self._tell(ANYTHING)
        while stream.alive and not self._closing.is_set():
            event = stream.try_next()
            if event is not None:
                self._tell(read_event(event))
