"""What monitors and autoscalers ask: how much waits on each route and for how long, and how long runs take.

``survey`` asks a store. A pool knows how long its own runs take: ``RunCounts`` counts its log's entries.
"""
