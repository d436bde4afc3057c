"""Environments for the queues beside ours: one each, made when first asked for, in ``.bench/`` of this repository."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from bench.processes import ROOT

CACHE = Path(os.environ.get("BENCH_CACHE", ROOT / ".bench"))


def environment(name: str, packages: Sequence[str]) -> Path:
    """The folder of programs of an environment with these packages. Raises RuntimeError where pip fails."""
    folder = CACHE / name
    wanted = "\n".join(packages)
    ready = folder / "ready"
    if not ready.exists() or ready.read_text() != wanted:
        _make(folder, packages)
        ready.write_text(wanted)
    return folder / "bin"


def _make(folder: Path, packages: Sequence[str]) -> None:
    try:
        venv.EnvBuilder(clear=True, with_pip=True, symlinks=True).create(folder)
    except (subprocess.CalledProcessError, SystemExit):  # a Python without venv's pip; virtualenv brings its own
        subprocess.run([sys.executable, "-m", "virtualenv", "--quiet", str(folder)], check=True)
    command = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"could not install {', '.join(packages)}:\n{done.stderr[-2000:]}")


def versions(bin: Path, packages: Sequence[str]) -> str:
    """What is installed there of these distributions."""
    code = "import sys, importlib.metadata as m; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    return subprocess.run(
        [str(bin / "python"), "-c", code, *packages], capture_output=True, text=True, check=True
    ).stdout.strip()
