"""The options of a transaction that change what it does, by their numbers; the others are taken and have no effect."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from fdb_fake.codes import INVALID_OPTION_VALUE, Refusal

CAUSAL_READ_RISKY = 20
NEXT_WRITE_NO_WRITE_CONFLICT_RANGE = 30
READ_YOUR_WRITES_DISABLE = 51
ACCESS_SYSTEM_KEYS = 301
READ_SYSTEM_KEYS = 302
TIMEOUT = 500
RETRY_LIMIT = 501
MAX_RETRY_DELAY = 502
SIZE_LIMIT = 503
SNAPSHOT_RYW_ENABLE = 600
SNAPSHOT_RYW_DISABLE = 601
USED_DURING_COMMIT_PROTECTION_DISABLE = 701
SPECIAL_KEY_SPACE_ENABLE_WRITES = 714
BYPASS_UNREADABLE = 1100

PERSISTENT = {TIMEOUT, RETRY_LIMIT, MAX_RETRY_DELAY, SIZE_LIMIT}
"""What stays when a transaction is tried again."""

MAX_WATCHES = 20
DEFAULTS = {26: SNAPSHOT_RYW_ENABLE, 27: SNAPSHOT_RYW_DISABLE, 500: TIMEOUT, 501: RETRY_LIMIT, 502: MAX_RETRY_DELAY}
DEFAULTS |= {503: SIZE_LIMIT, 700: BYPASS_UNREADABLE, 701: USED_DURING_COMMIT_PROTECTION_DISABLE}
"""The option of a database that sets one for all of its transactions."""

_BOUNDS = {TIMEOUT: (0, 2**31 - 1), RETRY_LIMIT: (-1, 2**31 - 1), MAX_RETRY_DELAY: (0, 2**31 - 1)}
_BOUNDS |= {SIZE_LIMIT: (32, 10_000_000)}


def number_of(option: int, value: bytes | None) -> int:
    """The number that an option is given.

    Raises:
        Refusal: invalid_option_value.
    """
    low, high = _BOUNDS.get(option, (-(2**63), 2**63 - 1))
    if value is None or len(value) != 8:
        raise Refusal(INVALID_OPTION_VALUE)
    (number,) = struct.unpack("<q", value)
    if not low <= number <= high:
        raise Refusal(INVALID_OPTION_VALUE)
    return int(number)


@dataclass
class Options:
    """Of one transaction, for one try."""

    timeout: float = 0.0  # seconds; 0 is none
    retry_limit: int = -1
    max_retry_delay: float = 1.0  # seconds
    size_limit: int = 10_000_000
    snapshot_sees_writes: int = 1
    reads_see_writes: bool = True
    reads_system_keys: bool = False
    writes_system_keys: bool = False
    writes_special_keys: bool = False
    next_write_conflicts: bool = True
    bypass_unreadable: bool = False
    protects_commit: bool = True

    def set(self, option: int, value: bytes | None) -> None:
        if option == TIMEOUT:
            self.timeout = number_of(option, value) / 1000
        elif option == RETRY_LIMIT:
            self.retry_limit = number_of(option, value)
        elif option == MAX_RETRY_DELAY:
            self.max_retry_delay = number_of(option, value) / 1000
        elif option == SIZE_LIMIT:
            self.size_limit = number_of(option, value)
        elif option in (SNAPSHOT_RYW_ENABLE, SNAPSHOT_RYW_DISABLE):
            self.snapshot_sees_writes += 1 if option == SNAPSHOT_RYW_ENABLE else -1
        else:
            self._switch(option)

    def _switch(self, option: int) -> None:
        if option == READ_YOUR_WRITES_DISABLE:
            self.reads_see_writes = False
        elif option == READ_SYSTEM_KEYS:
            self.reads_system_keys = True
        elif option == ACCESS_SYSTEM_KEYS:
            self.reads_system_keys = self.writes_system_keys = True
        elif option == SPECIAL_KEY_SPACE_ENABLE_WRITES:
            self.writes_special_keys = True
        elif option == NEXT_WRITE_NO_WRITE_CONFLICT_RANGE:
            self.next_write_conflicts = False
        elif option == BYPASS_UNREADABLE:
            self.bypass_unreadable = True
        elif option == USED_DURING_COMMIT_PROTECTION_DISABLE:
            self.protects_commit = False

    def takes_write_conflict(self) -> bool:
        """Whether the write that is being made conflicts; the next one does."""
        found, self.next_write_conflicts = self.next_write_conflicts, True
        return found
