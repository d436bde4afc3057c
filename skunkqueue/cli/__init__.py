"""skunq, the command line: finds the command asked for, and turns what goes wrong into a sentence and an exit code."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

import click

from skunkqueue import __version__
from skunkqueue.errors import SkunkError, WrongCall

# Each command's module is imported when the command is, so that `skunq work` loads nothing of the desk.
COMMANDS: Final[Mapping[str, str]] = {
    "work": "skunkqueue.cli.work",
    "runs": "skunkqueue.cli.look",
    "show": "skunkqueue.cli.look",
    "workers": "skunkqueue.cli.look",
    "cancel": "skunkqueue.cli.act",
    "retry": "skunkqueue.cli.act",
    "purge": "skunkqueue.cli.act",
}

FAILED: Final = 1
WRONG_CALL: Final = 2
INTERRUPTED: Final = 130


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


def main(args: Sequence[str] | None = None) -> NoReturn:
    """The program ``skunq``. Exits with 0, 1 (it could not be done), 2 (a wrong call) or 130 (Ctrl-C)."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # replaced by something that is no text file
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = skunq.main(args, prog_name="skunq", standalone_mode=False) or 0
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except BrokenPipeError:
        _abandon_stdout()
        code = FAILED
    except (SkunkError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        code = WRONG_CALL if isinstance(error, WrongCall) else FAILED
    sys.exit(code)


def _abandon_stdout() -> None:
    """Nobody reads any more: what is still in the buffer must not raise again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
