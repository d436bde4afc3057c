"""skunq gearman: workers for Gearman servers, a bridge from them to a queue, and a server of our own."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from skunkqueue.cli.options import DURATION, QUEUE, ROUTE, at_least, log_format_option, url_option

Command = TypeVar("Command", bound=Callable[..., Any])

MOST_FILES = 65536


@click.group(short_help="Serve Gearman jobs, or bridge them to a queue.")
def gearman() -> None:
    """Speak with Gearman servers.

    \b
    skunq gearman work shop.workers:Mail              worker classes, in processes
    skunq gearman bridge -q demo --import shop.jobs   the jobs of a queue, for clients in any language
    skunq gearman serve --url sqlite:///jobs.db       a job server whose background jobs survive it
    """


def servers_option(command: Command) -> Command:
    """``--server``."""
    return click.option(
        "-s",
        "--server",
        "servers",
        multiple=True,
        metavar="HOST:PORT",
        default=("localhost:4730",),
        show_default=True,
        help="A Gearman server; may be repeated.",
    )(command)


@gearman.command(short_help="Run worker classes in processes.")
@click.argument("workers", nargs=-1, required=True, metavar="MODULE:WORKER...")
@servers_option
@click.option(
    "--workers", "threads", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
    help="Processes for each kind of worker.",
)  # fmt: skip
@click.option("--timeout", type=DURATION, metavar="TIME", help="How long a task may take. [any time]")
@click.option(
    "--retries", type=click.IntRange(min=0), default=0, metavar="N", help="How often a failed task is tried again. [0]"
)
@click.option(
    "--grace",
    type=DURATION,
    metavar="TIME",
    help="How long a gentle stop waits for what runs, before it interrupts it. [as long as it takes]",
)
@log_format_option
@click.option("--verbose", is_flag=True, help="Say more in the log.")
def work(workers: tuple[str, ...], servers: tuple[str, ...], threads: int, **options: Any) -> None:
    """Run BaseWorker classes, each named as MODULE:CLASS, in processes that are replaced when they stop.

    \b
    skunq gearman work shop.workers:Mail shop.workers:Report
    skunq gearman work -s one:4730 -s two:4730 --workers 4 shop.workers:Mail

    What is in the current folder can be imported. To stop: SIGTERM, SIGHUP, SIGQUIT and SIGABRT let the tasks that run
    finish; SIGINT (Ctrl-C) interrupts them, and their jobs go to other workers. A second signal interrupts, a third
    kills.
    """
    from skunkqueue.cli.serve import leaving_on_signals
    from skunkqueue.gearman.base_worker import BaseWorker
    from skunkqueue.gearman.runner import WorkRunner

    classes = [named(name, "a BaseWorker subclass") for name in workers]
    for name, found in zip(workers, classes, strict=True):
        if not isinstance(found, type) or not issubclass(found, BaseWorker):
            raise click.UsageError(f"{name} is no BaseWorker subclass, it is {found!r:.100}")
    with leaving_on_signals():
        WorkRunner(classes, list(servers), **options).start(threads=threads)


@gearman.command(short_help="Register the jobs of a queue at Gearman servers.")
@servers_option
@click.option("-q", "--queue", type=QUEUE, required=True, metavar="QUEUE", help="The queue's name.")
@click.option(
    "--import", "imports", multiple=True, required=True, metavar="MODULE", help="Where its jobs are; may be repeated."
)
@click.option("-r", "--route", type=ROUTE, metavar="ROUTE", help="Fire on this route. [the job's own]")
@url_option
@click.option(
    "--concurrency", type=click.IntRange(min=1), default=100, show_default=True, metavar="N",
    help="Calls that are under way at a time.",
)  # fmt: skip
@log_format_option
@click.option("--verbose", is_flag=True, help="Say more in the log.")
def bridge(
    servers: tuple[str, ...], queue: str, imports: tuple[str, ...], url: str | None, route: str | None, **options: Any
) -> None:
    """Let Gearman clients in any language call the jobs of a queue: each call is fired, its result is the answer.

    \b
    skunq gearman bridge -q demo --import shop.jobs       its jobs on the queue "demo"
    gearman -f add '{"a": 1, "b": 2}'                     calls one, with arguments as a JSON object, or an array

    Workers of the queue run the jobs: skunq work -q demo. To stop: as skunq work.
    """
    from skunkqueue.cli.serve import leaving_on_signals
    from skunkqueue.gearman.bridge import Bridge

    if url is not None:
        os.environ["SKUNKQUEUE_URL"] = url  # the modules make their queues themselves
    jobs = _jobs_of(queue, imports)
    with leaving_on_signals():
        Bridge(jobs, list(servers), route=route, **options).run()


@gearman.command(short_help="Be a Gearman job server, on any store.")
@url_option
@click.option(
    "--port", type=click.IntRange(min=0, max=65535), default=4730, show_default=True, metavar="PORT",
    help="The port; 0 takes a free one.",
)  # fmt: skip
@click.option(
    "--listen",
    multiple=True,
    default=("127.0.0.1",),
    show_default=True,
    metavar="HOST[:PORT]",
    help="Where to listen; may be repeated. Whoever can connect can submit jobs, take them and end the server.",
)
@click.option(
    "-q", "--queue", type=QUEUE, default="gearman", show_default=True, metavar="QUEUE",
    help="The queue that its jobs are runs of; each function is a route.",
)  # fmt: skip
@click.option(
    "--keep", type=DURATION, default=600, show_default=True, metavar="TIME",
    help="How long ended jobs can be looked at; background jobs that failed, a week at least.",
)  # fmt: skip
@click.option(
    "--job-retries", type=click.IntRange(min=0), default=0, metavar="N",
    help="How often a job is tried whose worker went away or took too long. [no limit]",
)  # fmt: skip
@click.option(
    "--lease", type=at_least(1), default=15, show_default=True, metavar="TIME",
    help="When the jobs that it holds go to others, once it is gone without a word.",
)  # fmt: skip
@click.option(
    "--max-payload", type=click.IntRange(min=1), default=16 << 20, metavar="BYTES",
    help="The most that a job's data, or its result, may have. [16 MiB]",
)  # fmt: skip
@click.option(
    "--grace", type=DURATION, metavar="TIME",
    help="How long a gentle stop waits for the jobs that run. [as long as it takes]",
)  # fmt: skip
@click.option("--pidfile", type=click.Path(), metavar="FILE", help="Hold this file while it runs, with its process id.")
@log_format_option
@click.option("--verbose", is_flag=True, help="Say more in the log.")
def serve(url: str | None, pidfile: str | None, **options: Any) -> None:
    """Be a Gearman job server whose jobs are runs on a queue: background jobs survive it, whatever ends it.

    \b
    skunq gearman serve                              on your own file, for this machine
    skunq gearman serve --url redis://host -q demo   several may serve one queue
    skunq work -q demo -r add --import shop.jobs     runs jobs of function "add" too

    Without --url it is the store that programs use too. To stop: SIGTERM, SIGHUP, SIGQUIT and SIGABRT let the jobs
    that run finish, and give out no others; SIGINT (Ctrl-C) and any second signal end it at once, and what ran goes
    back to the queue.
    """
    from skunkqueue.cli.pidfile import holding
    from skunkqueue.cli.serve import leaving_on_signals
    from skunkqueue.gearman.server import GearmanServer
    from skunkqueue.queue import SkunkQueue

    where = url if url is not None else SkunkQueue(options["queue"]).full_url
    _allow_many_connections()
    with leaving_on_signals(), holding(pidfile):
        GearmanServer(where, **options).run()


def _allow_many_connections() -> None:
    """Each is a file descriptor, and the usual limit is for programs that need few."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _jobs_of(queue: str, modules: Sequence[str]) -> list[Any]:
    """The jobs of a queue at the top level of these modules. Raises ClickException."""
    from skunkqueue.job import Job

    values = [value for module in modules for value in vars(imported(module)).values()]
    found = {id(job): job for job in values if isinstance(job, Job) and job.queue.name == queue}
    if not found:
        raise click.ClickException(f"there is no job of the queue {queue} in {', '.join(modules)}")
    return list(found.values())


def named(name: str, what: str) -> Any:
    """What ``module:name`` is, imported from the current folder too. Raises UsageError or ClickException."""
    module, colon, attribute = name.partition(":")
    if not module or not colon or not attribute:
        raise click.UsageError(f"{what} is named as MODULE:NAME, like shop.workers:Mail; got {name}")
    found: Any = imported(module)
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise click.ClickException(f"there is no {attribute} in {module}") from None
    return found


def imported(module: str) -> Any:
    """The module. Raises ClickException."""
    if sys.path[:1] != [os.getcwd()]:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise click.ClickException(f"cannot import {module}: {error}") from error
