"""Progress of long work, on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from otmetrics.errors import printable
from otmetrics.scoring.extraction import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Progress | None]:
    """Draw one bar per task: images done, images per second, time left."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),  # names of files are no markup
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    bars = Bars(*columns, console=Console(stderr=True))
    try:
        yield _updater(bars)
    finally:
        if bars.tasks:
            bars.stop()


def _updater(bars: "Bars") -> Progress:
    """A callback with one bar a task; "scores: recall" is the task "scores", now at "recall"."""
    tasks: dict[str, TaskID] = {}

    def update(name: str, done: int, total: int) -> None:
        name = printable(name)
        known = (one for one in tasks if name == one or name.startswith(f"{one}: "))
        task = next(known, None) or name.rpartition(": ")[0] or name  # a path may hold ": " too
        if task not in tasks:
            bars.start()  # not before, so that an early error stands alone
            tasks[task] = bars.add_task(name, total=total, rate="")
        speed = bars.tasks[tasks[task]].speed
        rate = f"{speed:.1f} images/s" if speed and name == task else ""
        bars.update(tasks[task], completed=done, description=name, rate=rate)

    return update
