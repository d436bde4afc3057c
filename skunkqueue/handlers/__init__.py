"""Handlers: jobs that are called for each run of a queue that has ended so: ``@queue.on("failed")``.

A handler is a job like any other. Whoever commits the end of a run puts a run of the handler *before* that, so that the
end cannot be known and the call be lost; the handler's run then waits until it sees the end, which may never come
about: where its pool dies in between, the run is run again. So a handler is called at least once for each end. No other
process imports its code than the worker that executes it.

``handler`` is what a handler is, for those who know no code; ``declared`` makes one of a function; ``book`` keeps them
in the store, so that each pool knows them before it claims anything; ``ends`` puts their runs.
"""
