"""The commands: finds the one asked for, and turns a wrong call into a sentence."""

from __future__ import annotations

import difflib
import importlib
import io
import sys
from collections.abc import Mapping, Sequence
from typing import Final

import click

from skunkqueue import __version__
from skunkqueue.printable import printable_lines

# Each command's module is imported when the command is, so that `skunq work` does not load the other commands.
COMMANDS: Final[Mapping[str, str]] = {
    "work": "skunkqueue.cli.work",
    "runs": "skunkqueue.cli.look",
    "show": "skunkqueue.cli.look",
    "errors": "skunkqueue.cli.failures",
    "top": "skunkqueue.cli.top",
    "workers": "skunkqueue.cli.look",
    "check": "skunkqueue.cli.check",
    "metrics": "skunkqueue.cli.metrics",
    "cancel": "skunkqueue.cli.act",
    "promote": "skunkqueue.cli.act",
    "retry": "skunkqueue.cli.act",
    "delete": "skunkqueue.cli.act",
    "purge": "skunkqueue.cli.act",
    "schedules": "skunkqueue.cli.schedules",
    "pause": "skunkqueue.cli.schedules",
    "resume": "skunkqueue.cli.schedules",
    "spool": "skunkqueue.cli.spool",
    "gearman": "skunkqueue.cli.gearman",
}


class Commands(click.Group):
    """The sub-commands, in the order in which people need them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = COMMANDS.get(cmd_name)
        if module is None:
            close = difflib.get_close_matches(cmd_name, COMMANDS, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}"
            raise click.UsageError(f"there is no command {cmd_name!r}; {hint}", ctx)
        found: click.Command = getattr(importlib.import_module(module), cmd_name)
        return found


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="skunkqueue %(version)s")
def skunq() -> None:
    """Run workers for SkunkQueue, and inspect runs.

    \b
    skunq work -q demo -r foo bar     work on two routes of the queue "demo"
    skunq runs -q demo                what was fired, newest first
    skunq show ID                     all about one run

    Every command uses the store that --url or else SKUNKQUEUE_URL names, or else this user's own file, as programs do.
    """


def run(words: Sequence[str]) -> int:
    """Run the command that the words name; returns the exit code. Raises KeyboardInterrupt, SkunkError, OSError."""
    from skunkqueue.cli import output

    try:
        return skunq.main(words, prog_name="skunq", standalone_mode=False) or 0
    except click.ClickException as error:
        _show(error)
        return error.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    except output.Unwritten as error:
        if error.reader_left:
            return 0
        output.complain(str(error))
        return 1
    except SystemExit:
        if not type(sys.stdout).__name__.endswith("PacifyFlushWrapper"):
            raise
        output.abandon(sys.stdout)  # click noticed that the reader of its help has left
        return 0


def _show(error: click.ClickException) -> None:
    """Print the error on stderr. It may contain text of others, file names for instance."""
    from skunkqueue.cli import output

    file = io.StringIO()
    error.show(file)
    output.write("\n".join(printable_lines(file.getvalue())), err=True)
