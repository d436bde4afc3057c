"""What pip installs SkunkQueue and its extras from."""

from __future__ import annotations

from typing import Final

SOURCE: Final = "."
"""What pip is given: the folder of a clone as long as the package is not published, then its name."""


def with_extra(name: str) -> str:
    """What pip is given for SkunkQueue with an extra: ``.[redis]``."""
    return f"{SOURCE}[{name}]"


def pip_install(requirement: str) -> str:
    """The command that installs a requirement, and where to type it if the requirement is a folder."""
    where = " in your clone of SkunkQueue" if requirement.startswith(".") else ""
    return f"pip install '{requirement}'{where}"
