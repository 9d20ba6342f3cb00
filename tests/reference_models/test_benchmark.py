"""The benchmark of the bundled GANs: it runs, its table has the rows, what is done is kept."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_short_run_prints_its_table_and_is_not_done_twice(tmp_path: Path) -> None:
    script = ROOT / "docs" / "benchmarks" / "gans.py"
    options = ["--data", "ring8", "--presets", "exact-ot", "--seeds", "1", "--jobs", "1"]
    command = [sys.executable, str(script), *options, "--steps", "2", "--out", str(tmp_path)]
    tables = []
    for _ in range(2):
        finished = subprocess.run(command, capture_output=True, text=True, check=True)
        tables.append(finished.stdout)
    assert tables[0] == tables[1]
    lines = [line for line in tables[0].splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| exact-ot", "| floor"]
    floor = lines[-1].split(" | ")
    assert floor[1] == "8.0 (least 8)"
    assert 98.0 < float(floor[2].split()[0]) < 99.6
    assert len(list(tmp_path.glob("exact-ot-ring8-0-*/result.json"))) == 1
