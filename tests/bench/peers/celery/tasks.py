import os

from celery import Celery

# Everything else as it comes: prefork, prefetch 4 per process, acknowledged early, results kept for a day.
app = Celery("tasks", broker=os.environ["REDIS_URL"] + "/0", backend=os.environ["REDIS_URL"] + "/1")


@app.task
def noop():
    return 1
