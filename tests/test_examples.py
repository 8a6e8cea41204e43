"""Every example runs, in a folder of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_example_runs(example: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(example)]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr


def test_quickstart_has_fewer_than_ten_lines() -> None:
    quickstart = next(example for example in EXAMPLES if example.stem == "quickstart")
    assert len([line for line in quickstart.read_text().splitlines() if line.strip()]) < 10
