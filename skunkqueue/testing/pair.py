"""Makes the same calls on a store and on the memory store, its model, and compares all answers and records."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from skunkqueue.persistence import Persister
from skunkqueue.persistence.memory import MemoryPersister


class Call(NamedTuple):
    """A verb with its arguments, to be called on both stores."""

    verb: str
    args: tuple[Any, ...]
    named: dict[str, Any]

    @classmethod
    def to(cls, verb: str, *args: Any, **named: Any) -> Call:
        return cls(verb, args, named)

    def of(self, store: Persister) -> Any:
        return getattr(store, self.verb)(*self.args, **self.named)

    def __str__(self) -> str:
        words = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.named.items())]
        return f"{self.verb}({', '.join(words)})"


class Pair:
    """A store and its model. Raises AssertionError at the first difference, with both answers."""

    def __init__(self, store: Persister, *, name: str) -> None:
        self.store = store
        self.model: MemoryPersister = MemoryPersister(name)
        self.last: Call | None = None

    def ask(self, call: Call) -> tuple[Any, Any]:
        """The answers of the model and of the store."""
        return call.of(self.model), self.answer(call)

    def answer(self, call: Call) -> Any:
        self.last = call
        self.begins(call)
        return self._of_store(call)

    def begins(self, call: Call) -> None:
        """Called before the store is asked anything that may change it."""

    def same(self, call: Call) -> Any:
        """The answer of both stores, which must be the same."""
        wanted, got = self.ask(call)
        self.check(wanted, got)
        return wanted

    def check(self, wanted: object, got: object, what: str = "") -> None:
        if not _equal(wanted, got):
            raise self.difference(f"  {what}wanted {wanted!r}\n  {what}got    {got!r}")

    def difference(self, how: str) -> AssertionError:
        return AssertionError(f"{self.where()}:\n{how}")

    def where(self) -> str:
        """The beginning of each error."""
        return f"after {self.last or 'the start'}"

    def compare(self, ids: Iterable[str], *, now: float, free: Iterable[str] = ()) -> None:
        """Compare every record and every count, except those of ``free``: runs that a store may end or not."""
        left = set(free)
        looked = [id for id in ids if id not in left]
        wanted, got = self._look(Call.to("get", looked))
        for id in looked:
            self.check(wanted.get(id), got.get(id), f"record {id}: ")
        if not left:
            self.check(*self._look(Call.to("count")), "count: ")
            self.check(*self._look(Call.to("workers", now=now)), "workers: ")

    def _look(self, call: Call) -> tuple[Any, Any]:
        return call.of(self.model), self._of_store(call)

    def _of_store(self, call: Call) -> Any:
        try:
            return call.of(self.store)
        except Exception as error:
            raise self.difference(f"  {call.verb} raised {error!r}") from error


def _equal(wanted: object, got: object) -> bool:
    """Equal, and of the very same types, in records and claims too: 1.0 is not a count, a memoryview is not a body."""
    exact = not isinstance(wanted, (list, tuple)) or repr(wanted) == repr(got)
    return wanted == got and type(wanted) is type(got) and exact
