"""Functions that spoil the standard streams of their process, and one that uses them."""

import contextlib
import gc
import io
import os
import subprocess
import sys


def close_stdout():
    sys.stdout.close()


def close_stderr():
    sys.stderr.close()


def close_the_buffer():
    sys.stdout.buffer.close()


def close_input():
    os.close(0)


def close_output():
    os.close(1)


def close_errors():
    os.close(2)


def close_all():
    os.closerange(0, 3)


def redirect():
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.dup2(1, 2)


def replace():
    sys.stdout = sys.stderr = io.StringIO()


def remove():
    sys.stdout = sys.stderr = None


def delete():
    del sys.stdout


def detach():
    sys.stdout.detach()


def wrap():
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="ascii")
    gc.collect()


def wrap_and_drop():
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="ascii")
    sys.stdout = io.StringIO()
    gc.collect()


def redirect_and_raise():
    sys.stdout = io.StringIO()
    raise ValueError("in the middle")


def block():
    os.set_blocking(1, False)


async def close_in_a_coroutine():
    os.close(1)
    sys.stdout.close()


async def redirect_in_a_coroutine():
    sys.stdout = sys.stderr = io.StringIO()


async def kinds():
    return type(sys.stdout).__name__, type(sys.stderr).__name__


OFFENCES = [
    close_stdout, close_stderr, close_the_buffer, close_input, close_output, close_errors, close_all, redirect, replace,
    remove, delete, detach, wrap, wrap_and_drop, redirect_and_raise, block, close_in_a_coroutine,
]  # fmt: skip


def use(word):
    """Use all of them; a program that is started uses them too."""
    print(f"printed {word}")
    print(f"complained {word}", file=sys.stderr)
    code = f"import sys; print('child printed {word}'); print('child complained {word}', file=sys.stderr, flush=True)"
    code += "; sys.stdin.read()"
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run([sys.executable, "-c", code], timeout=20).stdout


def say(word):
    print(f"printed {word}", flush=True)
    print(f"complained {word}", file=sys.stderr, flush=True)
    return word
