"""Three workers on the route "news": each gets what is broadcast. Or: skunq work -q demo -r news news news"""

from skunkqueue.persistence.sqlite import default_cfg
from skunkqueue.worker import WorkerPool

with WorkerPool("demo", ["news", "news", "news"], **default_cfg) as pool:
    pool.listen()
