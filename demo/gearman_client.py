"""Calls what gearman_worker.py or gearman_runner.py exports: python demo/gearman_client.py [HOST:PORT]."""

import pprint
import sys

from skunkqueue.gearman import AsyncClient, SimpleClient

hosts = sys.argv[1:] or ["localhost:4730"]

client = SimpleClient(hosts)
print(client.myworker_echo(text="This is text"))
print(client.myworker_add(a=10, b=15))
pprint.pprint(client.myworker_help())

aclient = AsyncClient(hosts)
r = aclient.myworker_echo(text="This is text", double=True)
print(r.get_result())
print(r.is_done())
