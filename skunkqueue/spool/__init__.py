"""The spool folder: jobs dropped as files into a folder are found, processed, and removed, or kept when they fail."""

from skunkqueue.spool.drop import drop
from skunkqueue.spool.hermes import Hermes
from skunkqueue.spool.kept import retry

__all__ = ["Hermes", "drop", "retry"]
