"""skunq spool: process the jobs of a spool folder, feed them to a queue, or put back one that failed."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from skunkqueue.cli.options import DURATION, QUEUE, ROUTE, log_format_option, url_option

RETRY = "retry"


@click.command(short_help="Process jobs that are dropped as files into a folder.")
@click.argument("words", nargs=-1, required=True, metavar="DIR | retry FILE...")
@click.option(
    "-m", "--module", metavar="MODULE", help="Process the jobs by its dictionary `processors`: functions by type."
)
@click.option("--into", type=QUEUE, metavar="QUEUE", help="Fire each file's type as a job on this queue instead.")
@click.option("-r", "--route", type=ROUTE, metavar="ROUTE", help='The route for --into. ["default"]')
@url_option
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Jobs that are processed at a time. [4]")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Process them in so many processes instead.")
@click.option("--timeout", type=DURATION, metavar="TIME", help="How long a job may take. [any time]")
@click.option(
    "--retries", type=click.IntRange(min=0), metavar="N", help="How often a job that fails is tried again. [0]"
)
@click.option("--max-size", type=click.IntRange(min=1), metavar="BYTES", help="The largest file that is read. [16 MiB]")
@click.option("--burst", is_flag=True, help="Stop when there is nothing left to do.")
@log_format_option
@click.option("--verbose", is_flag=True, help="Say more in the log.")
def spool(words: tuple[str, ...], **options: Any) -> None:
    """Process the jobs that are dropped as files into DIR/in; those that fail are kept in DIR/err.

    \b
    skunq spool /tmp/jobs -m shop.tasks                 by its dictionary `processors`
    skunq spool /tmp/jobs --into demo -r mails          on a queue, by jobs of that name
    skunq spool retry /tmp/jobs/err/email               put it back

    A folder that is called retry is written ./retry. To stop: SIGTERM, SIGHUP, SIGQUIT and SIGABRT let the jobs that
    run finish; SIGINT (Ctrl-C) interrupts them, and they are run again later.
    """
    if words[0] == RETRY:
        _retry(words[1:], options)
        return
    if len(words) > 1:
        raise click.UsageError(f"skunq spool takes one folder, got {len(words)}: {' '.join(words)}")
    module, into = options.pop("module"), options.pop("into")
    if (module is None) == (into is None):
        raise click.UsageError("skunq spool takes -m MODULE, to process jobs, or --into QUEUE, to fire them there")
    if module is None:
        _feed(words[0], into, options)
    else:
        _process(words[0], module, options)


def _retry(files: tuple[str, ...], options: Mapping[str, Any]) -> None:
    from skunkqueue.cli.output import as_far_as_possible, say
    from skunkqueue.spool.kept import retry

    _refuse(options, ("log_format",), "skunq spool retry")
    if not files:
        raise click.UsageError("skunq spool retry takes one file of err/ or more")
    for file in files:
        put_back = retry(file)
        with as_far_as_possible():
            say(f"put back: {put_back}")


def _feed(folder: str, queue: str, options: dict[str, Any]) -> None:
    from skunkqueue.queue import SkunkQueue
    from skunkqueue.spool.feed import Feeder

    _refuse(options, ("route", "max_size", "burst", "log_format", "verbose"), "skunq spool --into")
    limits = {"max_size": options["max_size"]} if options["max_size"] else {}
    with SkunkQueue(queue, options["url"]) as to:
        how = {"log_format": options["log_format"], "verbose": options["verbose"]}
        feeder = Feeder(folder, to, options["route"] or "default", **how, **limits)
        feeder.run(burst=options["burst"])


def _process(folder: str, module: str, options: dict[str, Any]) -> None:
    from skunkqueue.spool.hermes import Hermes

    processing = ("threads", "workers", "timeout", "retries", "max_size", "burst", "log_format", "verbose")
    _refuse(options, processing, "skunq spool -m")
    processors = _processors(module)
    burst = options.pop("burst")
    given = {name: options[name] for name in processing if options.get(name) is not None}
    hermes = Hermes(folder, **given)
    hermes.register(processors)
    if burst:
        hermes.run_until_idle()
    else:
        hermes.start()


def _processors(module: str) -> Mapping[str, Any]:
    if sys.path[:1] != [os.getcwd()]:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise click.ClickException(f"cannot import {module}: {error}") from error
    processors = getattr(found, "processors", None)
    if not isinstance(processors, Mapping):
        what = "has none" if processors is None else f"has a {type(processors).__name__} of that name"
        raise click.ClickException(f"{module} needs a dictionary `processors` of functions by type; it {what}")
    return processors


def _refuse(options: Mapping[str, Any], taken: tuple[str, ...], what: str) -> None:
    """Raises UsageError for an option that has no meaning here. --url may come from the environment, so it may stay."""
    for name, value in options.items():
        if value not in (None, False) and name not in (*taken, "url"):
            raise click.UsageError(f"--{name.replace('_', '-')} has no meaning for {what}")
