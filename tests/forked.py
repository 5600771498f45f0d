"""Run a command line in a copy of the tests' process that forks, and end as it does.

`python -S tests/forked.py SOCKET MODULE WORDS`, where `processes.asked_at` listens at the socket.
"""

import json
import os
import socket
import sys

_, address, *words = sys.argv
reads, writes = os.pipe()
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asked:
    asked.connect(address)
    request = {"words": words, "env": dict(os.environ), "cwd": os.getcwd()}  # noqa: PTH109 quicker
    socket.send_fds(asked, [json.dumps(request).encode()], [1, 2, writes])
os.close(writes)
with os.fdopen(reads) as status:
    _pid, code = map(int, status)
sys.exit(code if code >= 0 else 128 - code)
