"""How fast SkunkQueue is, beside the raw limits of its stores and beside other queues: ``python -m bench``."""
