"""`otmetrics ARGUMENTS` that is killed right after the second time that it has kept features."""

import os
import signal
import sys

from otmetrics.images import files
from otmetrics.scoring import cache

KEPT = 4  # features at a time


def main() -> None:
    cache.SHARD_IMAGES, files.SETTLED_SECONDS = KEPT, 0.0
    store, times = cache.Shelf.store, []

    def stored(*args, **options):
        store(*args, **options)
        times.append(None)
        if len(times) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    cache.Shelf.store = stored
    sys.argv[0] = "otmetrics"
    from otmetrics.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
