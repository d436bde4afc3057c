"""A Gearman job server on any store: background jobs survive it, and workers of the queue can run its jobs."""

from skunkqueue.gearman.server.server import GearmanServer as GearmanServer
