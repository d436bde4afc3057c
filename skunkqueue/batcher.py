"""Puts what coroutines fire: one thread takes all waiting fires and puts them in one call to the store."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from skunkqueue.envelope import Envelope
from skunkqueue.errors import StoreAway
from skunkqueue.run import Run, Runs

if TYPE_CHECKING:
    from skunkqueue.queue import SkunkQueue

MOST: Final = 500
"""Fires that are given to the store in one call."""
LINGER: Final = 0.1
"""Seconds after which the idle thread ends."""


class Fire(NamedTuple):
    """What one coroutine fires; ``make`` gives its envelopes, on the thread: it may ask the store for its time."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[list[Run[Any]]]
    make: Callable[[], list[Envelope]]


Answer = tuple[Fire, "list[Run[Any]] | Exception"]


class Batcher:
    """Of one queue, for any number of event loops. What one loop gives is put in that order."""

    def __init__(self, queue: SkunkQueue) -> None:
        self._queue = queue
        self._fires: deque[Fire] = deque()
        self._given = threading.Condition()
        self._works = False

    def put(self, make: Callable[[], list[Envelope]]) -> asyncio.Future[list[Run[Any]]]:
        """Have these put; the future has their runs, or the error that concerns these."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Run[Any]]] = loop.create_future()
        with self._given:
            self._fires.append(Fire(loop, future, make))
            if not self._works:
                self._works = True
                # No daemon: what has been given is put, though the program ends meanwhile.
                threading.Thread(target=self._work, name="skunkqueue-afire", daemon=False).start()
            elif len(self._fires) == 1:
                self._given.notify()
        return future

    def _work(self) -> None:
        while fires := self._next():
            answers = self._put_all(fires)
            for loop in {fire.loop for fire, _ in answers}:
                mine = [answer for answer in answers if answer[0].loop is loop]
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(_settle, mine)

    def _next(self) -> list[Fire]:
        with self._given:
            if not self._fires:
                self._given.wait(LINGER)
            fires = [self._fires.popleft() for _ in range(min(len(self._fires), MOST))]
            self._works = bool(fires)
            return fires

    def _put_all(self, fires: Sequence[Fire]) -> list[Answer]:
        answers: list[Answer] = []
        made: list[tuple[Fire, list[Envelope]]] = []
        for fire in fires:
            try:
                made.append((fire, fire.make()))
            except Exception as error:
                answers.append((fire, error))
        return answers + self._put(made)

    def _put(self, made: list[tuple[Fire, list[Envelope]]]) -> list[Answer]:
        envelopes = [envelope for _, each in made for envelope in each]
        try:
            runs = iter(self._queue.put(envelopes) if envelopes else [])
        except StoreAway as error:
            return [(fire, self._own(error, each)) for fire, each in made]
        except Exception as error:
            if len(made) == 1:
                return [(made[0][0], error)]
            return [answer for each in made for answer in self._put([each])]  # each has its own error, or none
        return [(fire, [next(runs) for _ in each]) for fire, each in made]

    def _own(self, error: StoreAway, envelopes: list[Envelope]) -> StoreAway:
        """The error as if these had been put alone."""
        own = copy.copy(error)
        own.__cause__ = error.__cause__ or error
        own.runs = Runs([Run(self._queue, envelope.id, envelope) for envelope in envelopes])
        return own


def _settle(answers: Sequence[Answer]) -> None:
    for fire, answer in answers:
        if fire.future.done():
            continue  # cancelled: whoever fired no longer wants to know
        if isinstance(answer, Exception):
            fire.future.set_exception(answer)
        else:
            fire.future.set_result(answer)
