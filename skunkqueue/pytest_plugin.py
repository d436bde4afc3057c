"""The pytest plugin: the fixture ``skunk``. Every pytest beside SkunkQueue loads this module, so it imports nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from skunkqueue.testing.skunk import Skunk


@pytest.fixture
def skunk() -> Iterator[Skunk]:
    """SkunkQueue for one test: every queue keeps its runs in memory, and no real store is used. See Skunk."""
    from skunkqueue.testing.skunk import Skunk

    with Skunk() as made:
        yield made
