"""Keeps answers of costly functions: by name and arguments, in MongoDB, Redis, SQLite or memory, for all processes."""

from __future__ import annotations

from skunkqueue.cache.decorators import cacheBuilder, cached

__all__ = ["cacheBuilder", "cached"]
