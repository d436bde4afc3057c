"""Three workers on the route "news", who each get what is broadcast. The same as: skunq work -q demo -r news news news"""

from skunkqueue.persistence.sqlite import default_cfg
from skunkqueue.worker import WorkerPool

with WorkerPool("demo", ["news", "news", "news"], **default_cfg) as pool:
    pool.listen()
