"""What docs/metrics.md says of our metrics beside torchmetrics' own, tried again."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAME = "torchmetrics_table"
OURS = "otmetrics"


def loaded():
    spec = importlib.util.spec_from_file_location(NAME, ROOT / "docs" / "scripts" / f"{NAME}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module  # where pickle looks for its network
    spec.loader.exec_module(module)
    return module


script = loaded()


@pytest.mark.parametrize("name", script.CHECKS)
def test_our_metrics_pass(name):
    assert script.cell(name, OURS) == "yes"


def test_a_check_can_fail(monkeypatch):
    kid = next(column for column in script.COLUMNS if column.endswith("KID"))
    assert script.cell("`compute` returns a scalar tensor", kid) == "no: a tuple"

    def wrong(subject):
        script.agree(script.answer(script.filled(subject())), 0.0)

    monkeypatch.setitem(script.CHECKS, "fails", wrong)
    reasons = script.cell("fails", OURS).removeprefix("no: ").split("; ")
    assert [reason.split(":")[0] for reason in reasons] == [
        subject.name for subject in script.COLUMNS[OURS]
    ]
    monkeypatch.setitem(script.CHECKS, "breaks", lambda subject: subject().compute())
    assert "ValueError, `real` holds no samples" in script.cell("breaks", OURS)


def test_the_page_has_the_table():
    page = (ROOT / "docs" / "metrics.md").read_text()
    command = f"```\npython docs/scripts/{NAME}.py\n```\n\nprinted\n\n| property |"
    assert command in page
    lines = page[page.index("| property |") :].split("\n\n")[0].splitlines()
    head, _, *rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert [cell.strip() for cell in head][-1] == OURS
    assert [row[0].strip() for row in rows] == list(script.CHECKS)
    for name, *others, ours in ([cell.strip() for cell in row] for row in rows):
        assert ours == "yes", name
        assert all(re.match(r"yes$|no: \S", cell) for cell in others), name
        assert len(others) == 2
