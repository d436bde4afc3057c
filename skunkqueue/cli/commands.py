"""The commands: finds the one asked for, and turns a wrong call into a sentence."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from typing import Final

import click

from skunkqueue import __version__

# Each command's module is imported when the command is, so that `skunq work` loads nothing of the desk.
COMMANDS: Final[Mapping[str, str]] = {
    "work": "skunkqueue.cli.work",
    "runs": "skunkqueue.cli.look",
    "show": "skunkqueue.cli.look",
    "workers": "skunkqueue.cli.look",
    "cancel": "skunkqueue.cli.act",
    "promote": "skunkqueue.cli.act",
    "retry": "skunkqueue.cli.act",
    "purge": "skunkqueue.cli.act",
    "spool": "skunkqueue.cli.spool",
}


class Commands(click.Group):
    """The sub-commands, in the order a person meets them."""

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
    """Run workers for SkunkQueue, and see what became of what was fired.

    \b
    skunq work -q demo -r foo bar     work on two routes of the queue "demo"
    skunq runs -q demo                what was fired, newest first
    skunq show ID                     all about one run

    Every command takes --url, else looks at SKUNKQUEUE_URL, else uses this user's own file, as programs do.
    """


def run(words: Sequence[str]) -> int:
    """Run the command that the words say; gives the exit code. Raises KeyboardInterrupt, SkunkError, OSError."""
    try:
        return skunq.main(words, prog_name="skunq", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
