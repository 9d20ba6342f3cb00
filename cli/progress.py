"""Progress of long work, on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from otmetrics.errors import printable, tell

from .options import flag

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from otmetrics.scoring.extraction import Progress as Told


def _terminal() -> "Console":
    """The stderr, whose reader may go: the work does not end with it, as rich would have it."""
    from rich.console import Console

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True

    return Terminal(stderr=True)


@contextmanager
def progress_bars(quiet: bool) -> Iterator["Told | None"]:
    """Draw one bar per task: images done, images per second, time left."""
    if quiet:
        yield None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),  # names of files are no markup
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with _bars(Progress(*columns, console=_terminal())) as bars:
        tasks: dict[str, TaskID] = {}

        def update(name: str, done: int, total: int) -> None:
            """The name "scores: recall" is the task "scores", now at "recall"."""
            # Names of inputs are in it, which are other people's text.
            name = printable(name)
            known = (one for one in tasks if name == one or name.startswith(f"{one}: "))
            task = next(known, None) or name.rpartition(": ")[0] or name  # a path may hold ": " too
            if task not in tasks:
                bars.start()
                tasks[task] = bars.add_task(name, total=total, rate="")
            # Steps of scores are no images, nor is what comes before the first batch.
            speed = bars.tasks[tasks[task]].speed
            rate = f"{speed:.1f} images/s" if speed and name == task else ""
            bars.update(tasks[task], completed=done, description=name, rate=rate)

        yield update


@contextmanager
def training_progress(
    quiet: bool,
) -> Iterator[tuple[Callable[[int, int, str], None] | None, Callable[[str], None] | None]]:
    """A bar above the last losses and score, and a place for warnings."""
    if quiet:
        yield None, None
        return
    from rich.console import RenderableType
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    from rich.text import Text

    class Bars(Progress):
        """Bars, and a line below that has the terminal's whole width."""

        line = ""

        def get_renderables(self) -> Iterator[RenderableType]:
            yield from super().get_renderables()
            yield Text(self.line)

    console = _terminal()
    columns = (
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with _bars(Bars(*columns, console=console)) as bars:
        # The number of steps is known with the first report.
        task = bars.add_task("", total=None)

        def update(done: int, total: int, text: str) -> None:
            bars.start()
            bars.line = printable(text)
            bars.update(task, completed=done, total=total)

        yield update, lambda line: console.print(Text(f"warning: {tell(line, flag)}"))


@contextmanager
def _bars(bars: "Progress") -> Iterator[Any]:
    """Bars that the first update starts, so that an early error stands alone."""
    try:
        yield bars
    finally:
        if bars.live.is_started:  # else it would print an empty line
            bars.stop()
