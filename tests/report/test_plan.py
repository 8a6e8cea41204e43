"""A plan as a table says what it has, and nothing about what it has not."""

from rich.console import Console

from dovetail.report import plan_table
from dovetail.report.plan import Plan


def shown(plan: Plan) -> str:
    console = Console(width=150)
    with console.capture() as capture:
        console.print(plan_table("step 1", plan))
    return capture.get()


def test_what_has_a_price_is_summed() -> None:
    rows = {
        "conv1": {"setting": {"rank": 3}, "macs": [10, 5], "params": [4, 2], "loss_rise": 0.1},
        "conv2": {"kept": [3], "units": 8, "macs": [0, 0], "params": [0, 0], "loss_rise": 0.2, "removed": {"0": [1]}},
    }
    text = shown(rows)
    assert "rank 3" in text and "kept 3 of 8" in text and text.count("counted above") == 2 and "removed" not in text
    total = next(line for line in text.splitlines() if "together" in line)
    assert "10 → 5 (50%)" in total and "4 → 2 (50%)" in total and "0.3000" in total


def test_a_method_without_labels_says_how_much_the_outputs_change() -> None:
    text = shown({"conv1": {"bits": 4, "output_error": 0.25}, "conv2": {"bits": 8, "output_error": 0.5}})
    assert "output error" in text and "loss rise" not in text and "bits 4" in text and "0.7500" in text


def test_what_is_decided_after_training_has_no_price_yet() -> None:
    text = shown({"conv1": {"units": 16, "norms": ["bn1"]}})
    assert "units 16" in text and "bn1" not in text and "MACs" not in text and "together" not in text


def test_an_empty_plan_is_an_empty_table() -> None:
    assert "layer" in shown({})
