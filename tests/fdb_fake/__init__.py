"""A fake of FoundationDB: a server process, and a client library in Python under the real binding.

The binding on PyPI is pure Python over a shared library, ``libfdb_c.so``, that no registry has. Here that library is
replaced and nothing else: ``fdb.impl``, the directory layer, the subspaces and the tuples are the real ones. A process
gets the fake by having the folder ``site`` of this package first on its path (``PYTHONPATH`` for child processes); its
module ``fdb`` loads the real package over the fake library. A cluster file names the fake's server as it names a real
one, so what is opened, missing, away or shared by several processes is as it is with a real cluster.

``storage`` keeps the data and decides what commits, ``server`` serves it, ``network``, ``overlay`` and ``transaction``
are the client, ``library`` is the face of ``libfdb_c.so``.
"""

from __future__ import annotations

from pathlib import Path

SITE = Path(__file__).parent / "site"
"""First on ``sys.path`` or ``PYTHONPATH``, it makes ``import fdb`` load the real binding over the fake library."""
