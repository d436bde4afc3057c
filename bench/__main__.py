"""The one command: measures the parts asked for, prints how they compare, and keeps it in ``bench/RESULTS.md``.

python -m bench                      everything; an hour and a half
python -m bench sqlite               beside Huey and a raw loop; some minutes
python -m bench redis --peers none   beside the raw limits only
python -m bench mongodb --url URL    on a server that speaks its protocol, beside the raw limits and Celery
python -m bench fdb --cluster-file FILE   on a cluster of FoundationDB, beside the raw limits
python -m bench gearman              clients, workers and server, beside pygearman, the C tool and gearmand
python -m bench concurrency          several runs at a time, beside Taskiq, arq, SAQ and streaQ
"""

from __future__ import annotations

import argparse
import compileall
import os
import sys
import time
from collections.abc import Iterator

import skunkqueue
from bench import results
from bench.table import Part


def main() -> None:
    """Measure what the command line asks for. Ends with 1 where something required was not met."""
    asked = _parser().parse_args()
    # As any installer does, and did for the peers; a clone has no bytecode where PYTHONDONTWRITEBYTECODE is set.
    compileall.compile_dir(os.path.dirname(skunkqueue.__file__), quiet=2)
    parts = list(_measured(asked))
    for part in parts:
        print(part.text())
    if not asked.quick:
        results.keep(parts)
    sys.exit(any(not figure.met for part in parts for figure in part.figures))


def _measured(asked: argparse.Namespace) -> Iterator[Part]:
    if asked.part in ("sqlite", "all"):
        from bench import on_sqlite

        yield on_sqlite.measure(asked.quick, _say)
    if asked.part in ("redis", "all"):
        from bench import on_redis

        yield on_redis.measure(asked.quick, asked.peers, asked.persistence, _say)
    if asked.part == "mongodb":
        from bench import on_mongodb

        yield on_mongodb.measure(asked.url, asked.quick, asked.peers, _say)
    if asked.part == "fdb":
        from bench import on_fdb

        yield on_fdb.measure(asked.cluster_file, asked.quick, _say)
    if asked.part == "gearman":
        from bench import on_gearman

        yield on_gearman.measure(asked.quick, _say)
    if asked.part in ("concurrency", "all"):
        from bench import concurrency
        from bench.peers.known import PEERS

        peers = [peer for peer in PEERS if peer.name in asked.peers]
        yield concurrency.measure(asked.quick, peers, _say)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "part", nargs="?", choices=["sqlite", "redis", "mongodb", "fdb", "gearman", "concurrency", "all"], default="all"
    )
    parser.add_argument("--peers", type=_peers, default="all", help="all, none, or names with commas: RQ,Huey [all]")
    parser.add_argument(
        "--persistence", choices=["none", "everysec", "always"], default="none", help="of the Redis server, for all"
    )
    parser.add_argument("--url", default="mongodb://localhost:27017", help="of the MongoDB [mongodb://localhost:27017]")
    parser.add_argument("--cluster-file", default="", help="of the FoundationDB [the platform's default]")
    parser.add_argument("--quick", action="store_true", help="small and rough, to see that it works; keeps no results")
    return parser


def _peers(text: str) -> list[str]:
    from bench.peers.known import PEERS

    known = [peer.name for peer in PEERS]
    named = {"all": known, "none": []}.get(text, [name.strip() for name in text.split(",")])
    if strangers := set(named) - set(known):
        raise argparse.ArgumentTypeError(f"no peer is called {', '.join(strangers)}; there are {', '.join(known)}")
    return named


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
