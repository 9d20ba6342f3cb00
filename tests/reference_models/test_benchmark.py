"""The benchmark of the bundled GANs: it runs, its table has the rows, what is done is kept."""

import importlib
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"


def test_a_short_run_prints_its_table_and_is_not_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(FOLDER)  # the processes that it starts import it by its name
    gans = importlib.import_module("gans")
    options = ["--data", "ring8", "--presets", "exact-ot", "--seeds", "1", "--jobs", "1"]
    monkeypatch.setattr(sys, "argv", ["gans.py", *options, "--steps", "2", "--out", str(tmp_path)])
    gans.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| exact-ot", "| floor"]
    floor = lines[-1].split(" | ")
    assert floor[1] == "8.0 (least 8)"
    assert 98.0 < float(floor[2].split()[0]) < 99.6

    (result,) = tmp_path.glob("exact-ot-ring8-0-*/result.json")
    kept = json.loads(result.read_text()) | {"seconds": -7.0}  # which no run takes
    result.write_text(json.dumps(kept))
    assert gans.one_run("exact-ot", "ring8", 0, tmp_path, 2) == kept
    assert gans.row("exact-ot", [kept]).endswith("| -7 |")
