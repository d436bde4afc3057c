"""``python -m skunkqueue``: the program ``skunq``."""

from skunkqueue.cli import main

main()
