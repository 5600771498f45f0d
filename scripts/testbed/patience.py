"""How long to wait for something on the machine as it is now.

A test or a soak waits for what it wants to see. That it waits no longer than so many seconds only
says that it will not come any more: and on a machine that others use, that is later.
"""

import os
import time
from functools import lru_cache

_WORK = 200_000  # some milliseconds of a processor
_MEASURED_AGAIN_SECONDS = 5
_MOST_TIMES = 30.0


def patience(seconds: float) -> float:
    """Return so many seconds of a machine that nobody else uses, as seconds of this one."""
    return seconds * _slowness(int(time.monotonic()) // _MEASURED_AGAIN_SECONDS)


@lru_cache(maxsize=1)
def _slowness(_now: int) -> float:
    """Return how many times as long as on an idle machine things take: 1 at least.

    What is measured: how much of the time a piece of work has a processor, and how many others
    there are to each processor that want one.
    """
    wall, own = time.perf_counter(), time.thread_time()
    sum(range(_WORK))
    wall, own = time.perf_counter() - wall, time.thread_time() - own
    waiting = 1 + os.getloadavg()[0] / (os.cpu_count() or 1)
    return min(max(1.0, wall / max(own, 1e-6), waiting), _MOST_TIMES)
