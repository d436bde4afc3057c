"""Set while ``drain`` executes runs on this thread: what a job waits for must then be executed here."""

from __future__ import annotations

import threading
from collections.abc import Callable


class _Draining(threading.local):
    step: Callable[[], bool] | None = None


draining: _Draining = _Draining()
"""``step`` executes one more ripe run and returns whether there was one; None outside of ``drain``."""
