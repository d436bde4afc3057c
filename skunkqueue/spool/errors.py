"""Why a file in the spool folder is not, or not yet, a job."""

from __future__ import annotations

from skunkqueue.errors import SkunkError


class Unreadable(SkunkError):
    """The file is no job and never will be."""


class Unfinished(Unreadable):
    """The file breaks off: its writer may still be at it."""
