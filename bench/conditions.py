"""Under what conditions figures came about: machine, versions, load, date."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from bench.processes import ROOT


def machine() -> list[str]:
    """What this is measured on."""
    return [
        f"date: {time.strftime('%Y-%m-%d %H:%M %Z')}; commit {_commit()}",
        f"machine: {_processor()}, {os.cpu_count()} processors, Linux {platform.release()}, {_memory()} of memory",
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}",
    ]


def load() -> str:
    """How busy the machine is."""
    return "load average {:.1f}, {:.1f}, {:.1f}".format(*os.getloadavg())


def versions(packages: Sequence[str]) -> str:
    """Of what is installed here."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


def _processor() -> str:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> str:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal"):
            return f"{int(line.split()[1]) / 2**20:.0f} GiB"
    return "an unknown amount"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _commit() -> str:
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
