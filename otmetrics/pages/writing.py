"""Reports as files of HTML, which appear whole or not at all."""

from pathlib import Path

from otmetrics.errors import DataError
from otmetrics.safe_files import check_target, replace_file, user_path, writing
from otmetrics.scoring.comparison import Comparison
from otmetrics.scoring.explanation import Explanation
from otmetrics.scoring.report import ScoreReport

from .compare_page import compare_page
from .explain_page import explain_page
from .frame import NOWHERE, Origin
from .score_page import score_page

SUFFIXES = (".html", ".htm")
MOST_BYTES = 10_000_000  # beyond it browsers take long, and mails are refused


def write_html(
    result: ScoreReport | Comparison | Explanation, path: str | Path, *, overwrite: bool = False
) -> None:
    """Write a result as one file of HTML that opens by a double click, with no network.

    The file holds its style, drawings and data, runs no script, and is the same for equal results.
    `otmetrics score`, `compare` and `explain` write the same with `--html`. Source: `pages/`. It
    takes milliseconds.

    Args:
        result: What `score`, `compare`, `explain`, or one of them for features, returned.
        path: Where it goes: a file in a folder that exists, whose name ends in .html or .htm.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        DataError: If nothing can be written there, or the page would have more than 10 MB.
        TypeError: If `result` is something else.

    Example:
        >>> import tempfile
        >>> import otmetrics
        >>> report = otmetrics.score_features(torch.randn(20, 2), torch.randn(20, 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     otmetrics.write_html(report, f"{folder}/report.html")
    """
    path = user_path(path)
    check_target(path, SUFFIXES, overwrite=overwrite)
    write_page(page_of(result), path)


def page_of(result: ScoreReport | Comparison | Explanation, origin: Origin = NOWHERE) -> str:
    """The page of a result."""
    if isinstance(result, ScoreReport):
        return score_page(result, origin)
    if isinstance(result, Comparison):
        return compare_page(result, origin)
    if isinstance(result, Explanation):
        return explain_page(result, origin)
    raise TypeError(
        "`result` must be a ScoreReport, a Comparison or an Explanation, got "
        f"{type(result).__name__}."
    )


def write_page(page: str, path: Path) -> int:
    """Write a page in place of the file that is there, and return its size in bytes."""
    content = page.encode()
    if len(content) > MOST_BYTES:
        raise DataError(
            f"`{path}` would have {len(content) / 1e6:.1f} MB, more than the "
            f"{MOST_BYTES / 1e6:g} MB that browsers open at once: show fewer images or models."
        )
    with writing(path), replace_file(path) as file:
        file.write(content)
    return len(content)
