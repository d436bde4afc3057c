"""Handlers: jobs that are called for each run of a queue that has ended so: ``@queue.on("failed")``.

A handler is a job like any other. Whoever commits the end of a run puts a run of the handler *before* that, so that no
end is known of which the call is lost. Its run looks for the end, and where that has not come about, waits for
it: a pool may die between the two. So a handler is called at least once for each end, and nobody but the worker that
executes it imports its code.

``handler`` is what a handler is, for those who know no code; ``declared`` makes one of a function; ``book`` keeps them
in the store, so that each pool knows them before it claims anything; ``ends`` makes their runs.
"""
