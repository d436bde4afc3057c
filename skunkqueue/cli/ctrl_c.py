"""Ctrl-C before a command answers signals itself."""

from __future__ import annotations

import signal
import threading
from typing import Final, NoReturn


class CtrlC:
    """Remembers a Ctrl-C: what is raised in a callback that follows an import, Python drops."""

    def __init__(self) -> None:
        self._came = False

    def catch(self) -> None:
        """From now on, unless somebody else answers it."""
        is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if is_usual and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, *_: object) -> NoReturn:
        self._came = True
        raise KeyboardInterrupt

    def obey(self) -> None:
        """Raise KeyboardInterrupt if it came, once."""
        came, self._came = self._came, False
        if came:
            raise KeyboardInterrupt


ctrl_c: Final = CtrlC()
