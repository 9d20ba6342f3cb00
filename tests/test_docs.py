"""Every example in a docstring and in the README runs and says what it says."""

import doctest
import importlib
import re
from pathlib import Path

import pytest
import torch
from test_architecture import FILES, parts

ROOT = Path(__file__).parents[1]

MODULES = sorted(
    ".".join(["otmetrics", *(name for name in parts(path) if name != "__init__")])
    for path in FILES
    if parts(path)[-1] != "__main__"
)


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name: str) -> None:
    module = importlib.import_module(name)
    torch.manual_seed(0)
    outcome = doctest.testmod(module, extraglobs={"torch": torch})
    assert outcome.failed == 0


def test_the_maths_has_examples() -> None:
    """One for each public function that returns a number; an empty run would pass the rest."""
    names = [name for name in MODULES if name.split(".")[1:2] in (["transport"], ["statistics"])]
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = [test for name in names for test in finder.find(importlib.import_module(name))]
    assert sum(bool(test.examples) for test in tests) >= 10


def test_python_of_the_readme_runs(capsys: pytest.CaptureFixture) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    torch.manual_seed(0)
    names: dict[str, object] = {}  # a later block goes on from an earlier one
    for block in blocks:
        exec(block, names)
    assert len(capsys.readouterr().out.split()) == 2


@pytest.mark.parametrize("page", ["README.md", "docs/first-scores.md"])
def test_tables_have_the_shape_that_is_printed(page: str, capsys: pytest.CaptureFixture) -> None:
    # Numbers differ between machines; names, columns and legend do not.
    from otmetrics.cli.render import print_report

    from otmetrics import score_features

    real = torch.randn(20, 2, dtype=torch.float64)
    print_report(score_features(real, real + 1))
    header, *rows = capsys.readouterr().out.splitlines()
    shown = [" ".join(line.split()) for line in (ROOT / page).read_text().splitlines()]
    assert " ".join(header.split()) in shown
    for row in rows[:9]:
        label = row[: row.index("  ")]
        assert any(line.startswith(label) for line in shown), label
    for line in rows[9:12]:
        assert line in shown


@pytest.mark.parametrize("page", ["README.md", *Path(__file__).parents[1].glob("docs/*.md")])
def test_links_lead_somewhere(page: Path | str) -> None:
    page = ROOT / page
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
