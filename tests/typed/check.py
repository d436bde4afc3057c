"""Checks ``uses.py`` with mypy and pyright: what is marked as wrong must be an error, and nothing else may be.

And that pyright knows the type of every public name of the package, without having to infer it.

Run by ``make lint``: python tests/typed/check.py
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

USES = Path(__file__).with_name("uses.py")
ROOT = USES.parent.parent.parent


def marked() -> set[int]:
    lines = USES.read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}


def of_mypy() -> dict[int, str]:
    """Its errors, by line."""
    said = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", str(USES)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    found = re.findall(rf"{USES.name}:(\d+): error: (.*)", said.stdout)
    if said.returncode not in (0, 1) or (said.returncode and not found):
        raise SystemExit(f"mypy did not work: {said.stdout}{said.stderr}")
    return {int(line): text for line, text in found}


def of_pyright() -> dict[int, str]:
    """Its errors, by line."""
    said = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(USES)],
        cwd=USES.parent,
        capture_output=True,
        text=True,
    )
    try:
        told = json.loads(said.stdout)["generalDiagnostics"]
    except (ValueError, KeyError):
        raise SystemExit(f"pyright did not work: {said.stdout}{said.stderr}") from None
    return {each["range"]["start"]["line"] + 1: each["message"] for each in told if each["severity"] == "error"}


def untyped() -> tuple[int, list[str]]:
    """How many names other programs can use, and those whose type pyright does not know, with the reason."""
    said = subprocess.run(
        [
            sys.executable, "-m", "pyright", "--verifytypes", "skunkqueue", "--ignoreexternal", "--outputjson",
            "--pythonpath", sys.executable,
        ],
        cwd=USES.parent,  # where it does not find the package but as it is installed
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )  # fmt: skip
    try:
        told = json.loads(said.stdout)["typeCompleteness"]
    except (ValueError, KeyError):
        raise SystemExit(f"pyright did not work: {said.stdout}{said.stderr}") from None
    names = [each for each in told["symbols"] if each["isExported"]]
    if not names:
        raise SystemExit(f"pyright finds no package: {said.stdout}")
    return len(names), [
        f"{each['name']}: {'; '.join(why['message'] for why in each['diagnostics'])}"
        for each in names
        if not each["isTypeKnown"]
    ]


def main() -> None:
    wrong, failed = marked(), False
    for name, errors in (("mypy", of_mypy()), ("pyright", of_pyright())):
        for line in sorted(errors.keys() - wrong):
            failed = True
            print(f"{USES.name}:{line}: {name} takes this for wrong: {errors[line]}")
        for line in sorted(wrong - errors.keys()):
            failed = True
            print(f"{USES.name}:{line}: {name} does not see that this is wrong")
    names, unknown = untyped()
    for text in unknown:
        failed = True
        print(f"pyright does not know the type of {text}")
    if failed:
        raise SystemExit(1)
    print(f"right and wrong uses: mypy and pyright see all {len(wrong)} mistakes, and no others")
    print(f"public names: pyright knows the type of all {names:,}")


if __name__ == "__main__":
    main()
