"""What the benchmarks share: the networks whose weights are given, and the files that hold results."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import nn

from dovetail.networks import load_model

Rows = dict[str, dict[str, Any]]


def given(network: str) -> nn.Module:
    """The network with the CIFAR-10 weights that the data folder has for it."""
    weights = Path(os.environ["DOVETAIL_DATA"], "weights", f"{network}_cifar10.safetensors")
    return load_model(network, weights).module.eval()


def recorded(file: Path) -> Rows:
    return dict(json.loads(file.read_text())) if file.exists() else {}


def record(file: Path, rows: Rows) -> Rows:
    """Everything recorded in the file, these rows among it. Other processes may have added to it meanwhile."""
    results = dict(sorted((recorded(file) | rows).items()))
    part = file.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    part.replace(file)
    return results
