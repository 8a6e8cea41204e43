"""`compress` carries out a recipe: plan, apply, retrain, measure, and so on for every round of every step.

With a folder to keep its state in, a run that was killed at any moment goes on from its last finished epoch, and ends
bit for bit where an uninterrupted run would have.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import nn

from dovetail.data import Dataset
from dovetail.data.dataset import SplitName
from dovetail.errors import RecipeError
from dovetail.formats import Float, Layout
from dovetail.methods import Method
from dovetail.methods.constraint import bake, layouts, to_compress
from dovetail.methods.method import Context, Plan
from dovetail.methods.output_errors import planned
from dovetail.planning import Latency, measuring, planning_context
from dovetail.recipe import Recipe
from dovetail.train import load_state, save_state, score, train


@dataclass(frozen=True)
class Round:
    """What one round of one step led to. `kept` is False if it lost too much and was undone."""

    method: str
    step: int
    stage: int
    score: float
    """The task's metric on the split that judges, as a fraction."""
    stored_bytes: int
    """Of all tensors, as they would be stored now."""
    kept: bool = True


@dataclass(frozen=True)
class Preview:
    """What a recipe would do without retraining: each step's method and plan, and the model with all of them applied.

    Each plan was made on the model as the steps before it leave it.
    """

    steps: tuple[tuple[Method, Plan], ...]
    model: nn.Module


@dataclass(frozen=True)
class Compressed:
    """A compressed model, its constraints still on it, and how it came about."""

    model: nn.Module
    dataset: Dataset
    remaining: str
    history: tuple[Round, ...]
    plans: tuple[tuple[str, Plan], ...]
    """Each step's method, by name, and its plan."""
    provenance: dict[str, Any]


def compress(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    *,
    name: str = "",
    seed: int = 0,
    max_drop: float | None = None,
    judge: SplitName = "validation",
    latency: Latency | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Compressed:
    """Compress a copy of `model`.

    Args:
        name: what to call the model in the record.
        max_drop: the largest loss permitted, in the metric's percentage points. A round that loses more is undone, and
            its step ends there.
        judge: the split on which the loss is measured. A network that was trained on the validation split too seems to
            lose more there than it does; then "test" is the fairer judge, though no longer unseen.
        latency: seconds that a module takes on one input; needed where a step has a budget of latency.
        folder: where the state of the run is kept; a run found there is resumed.

    Raises:
        RecipeError: the folder holds a run of another model, recipe, data set or seed; or a step retrains, and there
            are no data.
    """
    if dataset.synthetic and any(step.training is not None for step in recipe.steps):
        raise RecipeError(
            f"the recipe {recipe.name} retrains, but there are only synthetic data: give real ones, or take the recipe "
            "without its training"
        )
    run = _Run(
        model,
        dataset,
        recipe,
        seed=seed,
        max_drop=max_drop,
        judge=judge,
        latency=latency,
        folder=None if folder is None else Path(folder),
        progress=progress,
        name=name,
    )
    for step in range(len(recipe.steps)):
        run.carry_out(step)
    return run.result()


def preview(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    latency: Latency | None = None,
    progress: Progress | None = None,
) -> Preview:
    """Plan every step of the recipe and apply it to a copy of `model`, without retraining.

    `compress` plans a step on the model as retrained by then, so that its later plans may differ from these.
    """
    context = planning_context(dataset, model, latency)
    changed = to_compress(model)
    steps = []
    for method in (step.method for step in recipe.steps):
        with measuring(context, f"planning {method.name}", progress, []) as measured:
            plan = planned(method, changed, measured)
            for stage in range(method.stages):
                plan = method.refine(changed, plan, stage, measured)
                changed = method.apply(changed, plan, stage, measured).eval()
        steps.append((method, plan))
    return Preview(tuple(steps), changed)


def plans(
    model: nn.Module, dataset: Dataset, recipe: Recipe, latency: Latency | None = None
) -> list[tuple[Method, Plan]]:
    """What each step would do, as `preview` finds it."""
    return list(preview(model, dataset, recipe, latency).steps)


def stored_bytes(model: nn.Module, remaining: str) -> int:
    """The bytes of all tensors of `model` stored as its constraints have it, the others as `remaining` floats."""
    plan, plain = layouts(model), bake(model)
    other = Layout(values=partial(Float.encode, dtype=remaining))
    weights = {name: value.detach().cpu().numpy() for name, value in plain.named_parameters()}
    return sum(plan.get(name, other).encode(weight).bits for name, weight in weights.items()) // 8


class _Run:
    """The state of one compression: the model, the plans made, the rounds done."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        recipe: Recipe,
        *,
        seed: int,
        max_drop: float | None,
        judge: SplitName,
        latency: Latency | None,
        folder: Path | None,
        progress: Progress | None,
        name: str,
    ) -> None:
        self.original, self.model = to_compress(model), to_compress(model)
        self.dataset, self.recipe, self.seed, self.max_drop = dataset, recipe, seed, max_drop
        self.judge, self.folder, self.progress, self.name = judge, folder, progress, name
        self.plans: dict[str, Plan] = {}
        self.history: list[Round] = []
        self.measured: list[float] = []  # since the last plan or round
        self.identity = self._identity()
        self.context = planning_context(dataset, self.original, latency)
        self.baseline = 0.0
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        if self._state_path is not None and self._state_path.exists():
            self._resume(load_state(self._state_path))
        else:
            self.baseline = self._score()

    def carry_out(self, step: int) -> None:
        method, training = self.recipe.steps[step].method, self.recipe.steps[step].training
        if str(step) not in self.plans:
            with self._measuring(f"planning {method.name}") as context:
                self.plans[str(step)] = planned(method, self.model, context)
            self.measured.clear()
            self._save()
        for stage in range(method.stages):
            done = [entry for entry in self.history if entry.step == step]
            if done and not done[-1].kept:
                return
            if stage < len(done):
                continue
            before = copy.deepcopy(self.model) if self.max_drop is not None else None
            with self._measuring(f"planning {method.name}, round {stage + 1} of {method.stages}") as context:
                plan = self.plans[str(step)] = method.refine(self.model, self.plans[str(step)], stage, context)
            self.model = method.apply(self.model, plan, stage, self.context)
            if training is not None:
                self.model = self._train(step, stage)
            self._judge(step, stage, before)

    def result(self) -> Compressed:
        provenance = {
            **self.identity,
            "recipe_text": self.recipe.text,
            "baseline_score": self.baseline,
            "history": [asdict(entry) for entry in self.history],
        }
        plans = tuple((self.recipe.steps[int(step)].method.name, plan) for step, plan in self.plans.items())
        return Compressed(self.model, self.dataset, self.recipe.remaining, tuple(self.history), plans, provenance)

    def _measuring(self, what: str) -> AbstractContextManager[Context]:
        return measuring(self.context, what, self.progress, self.measured, self._save)

    def _train(self, step: int, stage: int) -> nn.Module:
        training = self.recipe.steps[step].training
        assert training is not None
        wants_teacher = training.distillation > 0 or self.dataset.task.targets_from_original
        train(
            self.model,
            self.dataset,
            training,
            seed=int(np.random.SeedSequence([self.seed, step, stage]).generate_state(1)[0]),
            teacher=self.original if wants_teacher else None,
            checkpoint=self._checkpoint_path(step, stage),
            progress=self.progress,
        )
        return self.model.eval()

    def _judge(self, step: int, stage: int, before: nn.Module | None) -> None:
        """Measure the round; keep it, or undo it if it lost too much."""
        reached = self._score()
        kept = before is None or self.max_drop is None or 100 * (self.baseline - reached) <= self.max_drop
        size = stored_bytes(self.model, self.recipe.remaining)
        if not kept:
            assert before is not None
            self.model = before
        method = self.recipe.steps[step].method
        self.measured.clear()
        self.history.append(Round(method.name, step, stage, reached, size, kept))
        self._save()
        if (checkpoint := self._checkpoint_path(step, stage)) is not None:
            checkpoint.unlink(missing_ok=True)

    def _score(self) -> float:
        return score(self.model, self.dataset, self.judge, original=self.original)

    def _identity(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for key, value in self.original.state_dict().items():
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        packages = ("dovetail", "torch", "numpy")
        return {
            "model": self.name,
            "model_sha256": digest.hexdigest(),
            "dataset": self.dataset.name,
            "recipe": self.recipe.name,
            "recipe_changes": list(self.recipe.changes),
            "recipe_sha256": hashlib.sha256(repr(self.recipe).encode()).hexdigest(),
            "seed": self.seed,
            "max_drop": self.max_drop,
            "judge": self.judge,
            "threads": torch.get_num_threads(),
            "versions": {package: importlib.metadata.version(package) for package in packages},
        }

    @property
    def _state_path(self) -> Path | None:
        return None if self.folder is None else self.folder / "state.safetensors"

    def _checkpoint_path(self, step: int, stage: int) -> Path | None:
        return None if self.folder is None else self.folder / f"training-{step}-{stage}.safetensors"

    def _save(self) -> None:
        if self._state_path is None:
            return
        state = {
            "identity": self.identity,
            "baseline": self.baseline,
            "plans": self.plans,
            "measured": self.measured,
            "history": [asdict(entry) for entry in self.history],
            "model": dict(self.model.state_dict()),
        }
        save_state(self._state_path, state)

    def _resume(self, state: Mapping[str, Any]) -> None:
        if different := [key for key, value in self.identity.items() if state["identity"].get(key) != value]:
            raise RecipeError(
                f"{self.folder} holds a run that differs in {', '.join(different)}; "
                "repeat that one to end it, choose another folder, or discard it (--fresh)"
            )
        self.baseline, self.plans = state["baseline"], dict(state["plans"])
        self.measured = list(state["measured"])
        self.history = [Round(**entry) for entry in state["history"]]
        context = replace(self.context, rebuilding=True)
        for entry in self.history:
            if entry.kept:
                method = self.recipe.steps[entry.step].method
                self.model = method.apply(self.model, self.plans[str(entry.step)], entry.stage, context)
        self.model.load_state_dict(state["model"])
