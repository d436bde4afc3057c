"""Submits one job with a client of ours: HOST:PORT FUNCTION, data on stdin, its answer on stdout."""

import sys

from skunkqueue.gearman import GearmanClient

request = GearmanClient([sys.argv[1]]).submit_job(sys.argv[2], sys.stdin.buffer.read(), poll_timeout=30)
if request.state != "COMPLETE":
    sys.exit(f"{request.state} {request.exception}")
sys.stdout.buffer.write(request.result)
