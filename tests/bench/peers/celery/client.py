import sys
import time

from tasks import noop

if sys.argv[1] == "enqueue":
    for _ in range(int(sys.argv[2])):
        noop.delay()
else:
    for _ in sys.stdin:
        start = time.perf_counter()
        noop.delay().get()  # told by publish/subscribe
        print((time.perf_counter() - start) * 1e3, flush=True)
