"""The quick way to ``skunq work``: reads a call that is clearly right, so that click need not be loaded for it.

Loading click takes longer than all else until the first job runs. All other calls, help and mistakes included, are left
to click.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from skunkqueue.cli import checks
from skunkqueue.errors import WrongCall

LISTING: Final = ("-r", "--route")
_ATTACHED: Final = ("-r", "--route=")

_SEVERAL: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "-r": ("routes", checks.route),
    "--import": ("imports", checks.module),
    "--reload-dir": ("reload_dirs", str),
}
_ONE: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "-q": ("queue", checks.queue),
    "--queue": ("queue", checks.queue),
    "--url": ("url", checks.url),
    "--concurrency": ("concurrency", checks.whole),
    "--grace": ("grace", checks.duration),
    "--max-runs": ("max_runs", checks.whole),
    "--lease": ("lease", checks.lease),
    "--patience": ("patience", checks.duration),
    "--kill-after": ("kill_after", checks.duration),
    "--max-payload": ("max_payload", checks.whole),
    "--logfile": ("logfile", str),
    "--log-format": ("log_format", checks.log_format),
    "--pidfile": ("pidfile", str),
    "--metrics": ("metrics", checks.listen),
}
_SWITCHES: Final[Mapping[str, str]] = {"--burst": "burst", "--verbose": "verbose", "--reload": "reload"}


def read(words: Sequence[str]) -> dict[str, Any] | None:
    """The options of a plain ``skunq work``, as click would give them; None for any other call."""
    if words[:1] != ["work"]:
        return None
    try:
        options = _defaults()
        coming = spread(words[1:])
        for word in coming:
            _take(options, word, coming)
        options["queue"], options["routes"] = placed(options.get("queue"), options["routes"], options.pop("words"))
    except (ValueError, KeyError, StopIteration):
        return None
    return options if options["queue"] is not None else None


def _defaults() -> dict[str, Any]:
    url = os.environ.get("SKUNKQUEUE_URL")
    return {
        "url": checks.url(url) if url else None,
        "routes": (),
        "words": (),
        "imports": (),
        "reload_dirs": (),
        "concurrency": 1,
        "lease": 15.0,
        "patience": 600.0,
        "kill_after": 5.0,
        "log_format": "text",
        **dict.fromkeys(("grace", "max_runs", "max_payload", "logfile", "pidfile", "metrics")),
        **dict.fromkeys(_SWITCHES.values(), False),
    }


def _take(options: dict[str, Any], word: str, coming: Iterator[str]) -> None:
    if not word.startswith("-"):
        options["words"] += (word,)
    elif word in _SWITCHES:
        options[_SWITCHES[word]] = True
    elif word in _SEVERAL:
        name, check = _SEVERAL[word]
        options[name] += (check(next(coming)),)
    else:
        name, check = _ONE[word]
        options[name] = check(next(coming))


def placed(queue: str | None, routes: Sequence[str], words: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """The queue and the routes, where words came without an option: the queue first, unless ``-q`` named it.

    Raises WrongCall for a word that is no name.
    """
    if queue is None and words:
        queue, words = checks.queue(words[0]), words[1:]
    return queue, (*routes, *map(checks.route, words))


def spread(args: Sequence[str]) -> Iterator[str]:
    """Repeat ``-r`` before each of its values. Raises WrongCall if it has none."""
    listing = wanting = False
    for word in args:
        if not word.startswith("-"):
            wanting = False
            yield from ((LISTING[0], word) if listing else (word,))
            continue
        if wanting:
            break
        wanting = word in LISTING
        listing = wanting or word.startswith(_ATTACHED)
        if not wanting:
            yield word
    if wanting:
        raise WrongCall("-r wants one route or more, as in: -r foo bar")
