"""Screenshots of the pages that `--html` writes, for the docs.

    python docs/scripts/report_screenshots.py [FOLDER]

writes docs/figures/report-*.png, or FOLDER/report-*.png: the demo's two folders scored and
explained, and models of points compared. It needs the extra `browser`, and chromium, or another of
its kind that the variable CHROMIUM names.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

import otmetrics
from otmetrics.images import write_demo

FIGURES = Path(__file__).parents[1] / "figures"
WIDTH, HEIGHT = 1120, 860
MOST_BYTES = 200_000
SHIFTS = {"last week": 0.5, "yesterday": 0.25, "today": 0.2, "without augmentation": 0.8}


def write_pages(folder: Path) -> list[str]:
    """Write the pages, and return their names."""
    os.chdir(folder)  # a page names its inputs as they were named
    real, fake = write_demo(Path("demo"))
    pages = {
        "score": otmetrics.score(real, fake, scoring=otmetrics.Scoring(test=199)),
        "compare": compared(),
        "explain": otmetrics.explain(real, fake),
    }
    for name, result in pages.items():
        otmetrics.write_html(result, folder / f"{name}.html")
    return list(pages)


def compared() -> otmetrics.Comparison:
    """Models whose samples are shifted by so much in each of eight coordinates."""
    rng = np.random.default_rng(0)
    real, *fakes = (shift + rng.normal(size=(400, 8)) for shift in (0.0, *SHIFTS.values()))
    models = dict(zip(SHIFTS, fakes, strict=True))
    return otmetrics.compare_features(
        real, models, comparing=otmetrics.Comparing(baseline="yesterday")
    )


def photograph(folder: Path, names: list[str], target: Path) -> None:
    """Take a picture of the top of each page, on light and on dark ground."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as play:
        # Root, which containers run as, has no sandbox.
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = play.chromium.launch(executable_path=program, args=flags)
        for name in names:
            for scheme in ("light", "dark"):
                page = browser.new_page(
                    viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme
                )
                page.goto((folder / f"{name}.html").as_uri())
                path = target / f"report-{name}-{scheme}.png"
                page.screenshot(path=path)
                page.close()
                size = path.stat().st_size
                assert size < MOST_BYTES, f"{path} has {size} bytes"
                print(path)
        browser.close()


def main() -> None:
    """Write the pages into a folder that goes away, and their pictures into one that stays."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else FIGURES).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photograph(folder, write_pages(folder), target)
        os.chdir(target)  # some systems keep a folder that a program is in


if __name__ == "__main__":
    main()
