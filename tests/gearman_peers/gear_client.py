"""Submits one job with gear: HOST PORT FUNCTION, data on stdin, its answer on stdout."""

import sys
import threading

import gear


class Client(gear.Client):
    def handleWorkComplete(self, packet):
        job = super().handleWorkComplete(packet)
        ended.set()
        return job

    def handleWorkFail(self, packet):
        job = super().handleWorkFail(packet)
        ended.set()
        return job

    handleWorkException = handleWorkFail


ended = threading.Event()
client = Client()
client.addServer(sys.argv[1], int(sys.argv[2]))
client.waitForServer()
job = gear.Job(sys.argv[3].encode(), sys.stdin.buffer.read())
client.submitJob(job, timeout=30)
ended.wait(30)
if job.failure or not job.complete:
    sys.exit(1)
sys.stdout.buffer.write(b"".join(job.data))
sys.stdout.flush()
client.shutdown()
