"""What a plan measures is shown, and not measured again by a run that goes on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.progress import Progress
from tests.test_resuming import Killed, dataset, network
from torch import Tensor, nn

from dovetail import planning
from dovetail.compression import Compressed, compress, preview
from dovetail.data.task import Classification
from dovetail.methods import METHODS, Method
from dovetail.methods.method import Context
from dovetail.planning import measuring, planning_context
from dovetail.recipe import Recipe, RecipeStep

SCANNING = ("magnitude", "pattern", "channels", "svd", "depth")


def recipe(method: Method) -> Recipe:
    return Recipe(name="alone", steps=(RecipeStep(method=method),))


def counted(context: Context, before: Callable[[], None]) -> Context:
    """Calls `before` before every loss is measured."""

    def of(loss: Callable[[nn.Module], float]) -> Callable[[nn.Module], float]:
        def measure(model: nn.Module) -> float:
            before()
            return loss(model)

        return measure

    assert context.probe is not None
    return replace(context, loss=of(context.loss), probe=of(context.probe))


@pytest.mark.parametrize("name", SCANNING)
def test_a_plan_killed_at_every_loss_measures_each_once_and_ends_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, dies = 0, False

    def before() -> None:
        nonlocal measured
        measured += 1
        if dies and measured % 2 == 0:
            raise Killed

    def context(*given: object) -> Context:
        return counted(planning_context(*given), before)  # type: ignore[arg-type]

    monkeypatch.setattr("dovetail.compression.planning_context", context)
    monkeypatch.setattr(planning, "SAVE_SECONDS", 0)
    data, method = dataset(Classification()), METHODS[name]()
    whole, needed = compress(network(), data, recipe(method)), measured
    measured, dies, kills = 0, True, 0
    resumed: Compressed | None = None
    while resumed is None:
        try:
            resumed = compress(network(), data, recipe(method), folder=tmp_path)
        except Killed:
            kills += 1
    assert needed > 1
    assert measured == needed + kills  # those that killed were begun once more
    assert kills >= needed // 2
    assert resumed.plans == whole.plans
    found, expected = resumed.model.state_dict(), whole.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_what_follows_from_a_time_is_measured_again() -> None:
    known: list[float] = []
    given = Context(loss=lambda model: 1.0, example=Tensor([0]), latency=lambda module, example: 2.0)
    with measuring(given, "planning", None, known) as context:
        assert context.loss(nn.Identity()) == 1
        assert context.seconds(nn.Identity(), given.example) == 2
        assert context.loss(nn.Identity()) == 1
    assert known == [1]
    with measuring(replace(given, loss=lambda model: 3.0), "planning", None, known) as context:
        assert [context.loss(nn.Identity()) for _ in range(2)] == [1, 3]  # nothing was timed this time
    assert known == [1, 3]


@pytest.mark.parametrize("name", SCANNING)
def test_progress_is_shown_and_ends_where_the_method_expects(name: str) -> None:
    shown: list[tuple[float, float | None]] = []

    class Watched(Progress):
        def remove_task(self, task_id: object) -> None:
            shown.extend((task.completed, task.total) for task in self.tasks)
            super().remove_task(task_id)  # type: ignore[arg-type]

    with Watched(disable=True) as progress:
        preview(network(), dataset(Classification()), recipe(METHODS[name]()), progress=progress)
        assert not progress.tasks
    [(completed, total)] = shown
    assert completed > 1
    if name == "svd":  # stacks that are no smaller than their layer turn up on the way
        assert completed <= total < 1.3 * completed
    else:
        assert total == (None if name == "depth" else completed)
