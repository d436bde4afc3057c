"""No queue at all: LPUSH here, BRPOP there. The latency that Redis and two processes set."""

import os

import redis

from bench.peers import marks

client = redis.Redis.from_url(os.environ["BENCH_URL"], socket_timeout=None)


def fire_stamp():
    client.lpush("raw:stamps", b"1")


def ask(number):
    client.lpush("raw:asks", b"%d" % number)
    client.brpop("raw:answers", 60)


fire = ask


def work():
    while True:
        where, value = client.brpop(["raw:stamps", "raw:asks"])
        if where == b"raw:stamps":
            marks.started(marks.now())
        else:
            client.lpush("raw:answers", value)


if __name__ == "__main__":
    work()
