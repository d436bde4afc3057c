"""A worker by gear: HOST PORT. "upper" answers in capitals, "broken" fails."""

import sys

import gear

worker = gear.Worker("peer")
worker.addServer(sys.argv[1], int(sys.argv[2]))
worker.waitForServer()
worker.registerFunction("upper")
worker.registerFunction("broken")
while True:
    job = worker.getJob()
    if job.name in ("upper", b"upper"):
        job.sendWorkComplete(job.arguments.upper())
    else:
        job.sendWorkFail()
