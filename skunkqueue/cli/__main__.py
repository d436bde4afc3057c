"""``python -m skunkqueue.cli``: the same as ``skunq``."""

from skunkqueue.cli import main

main()
