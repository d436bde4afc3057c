"""Work on the route "foo" of the queue "demo", until Ctrl-C. The same as: skunq work -q demo -r foo"""

from skunkqueue.persistence.sqlite import default_cfg
from skunkqueue.worker import WorkerPool

# The first argument is the queue's name, the second the routes, a worker process for each. Workers on
# the same route share its jobs, first come first served.
with WorkerPool("demo", ["foo"], **default_cfg) as pool:
    pool.listen()
