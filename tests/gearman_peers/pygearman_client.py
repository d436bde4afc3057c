"""Submits one job with pygearman: HOST:PORT FUNCTION, data on stdin, its answer on stdout."""

import sys

import gearman

data = sys.stdin.buffer.read()
client = gearman.GearmanClient([sys.argv[1]])
for _ in range(20):
    try:
        request = client.submit_job(sys.argv[2], data, poll_timeout=30)
        break
    except KeyError:  # its fault: JOB_CREATED and WORK_COMPLETE came in one read
        client = gearman.GearmanClient([sys.argv[1]])
if request.state != "COMPLETE":
    sys.exit(1)
sys.stdout.buffer.write(request.result)
