"""A recipe is a list of steps, each a method and how to retrain after it; `compress` carries it out.

Read from TOML or written in Python:

    name = "deep_compression"
    remaining = "float16"           # how the tensors that no step takes are stored

    [[step]]
    method = "tucker2"
    budget = { macs = 0.5 }
    training = { epochs = 4, learning_rate = 0.01 }

    [[step]]
    method = "magnitude"
    sparsity = 0.9
    training = { epochs = 4, learning_rate = 0.01 }
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from dovetail import keys
from dovetail.errors import RecipeError
from dovetail.methods import METHODS, Method
from dovetail.methods.budget import Budget
from dovetail.methods.method import KINDS, Kind
from dovetail.train import Training

T = TypeVar("T")
FLOATS = ("float32", "float16", "bfloat16")

RETRAINING: dict[Kind, Training | None] = {
    "shrink": Training(epochs=4, learning_rate=0.01, distillation=0.5),
    "rebuild": Training(epochs=4, learning_rate=0.01, distillation=0.5),
    "prune": Training(epochs=4, learning_rate=0.01, distillation=0.5),
    "share": Training(epochs=2, optimizer="adamw", learning_rate=5e-4, weight_decay=0.0, distillation=0.5),
    "code": None,
}
"""How a method that is named instead of a recipe is retrained after each of its rounds."""


def builtin_recipes() -> list[str]:
    """The names of the recipes in the package."""
    files = resources.files("dovetail").joinpath("recipes").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


@dataclass(frozen=True, kw_only=True)
class RecipeStep:
    """A method, and how to retrain after each of its rounds (None: not at all)."""

    method: Method
    training: Training | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Steps in the order in which they are applied.

    `text` is the TOML it was read from, for the record; `changes` are the words of a command line that say what was
    changed since, such as ("--macs", "0.3").
    """

    name: str
    steps: tuple[RecipeStep, ...]
    remaining: str = "float32"
    text: str = ""
    changes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.remaining not in FLOATS:
            raise RecipeError(f"recipe {self.name}: remaining must be one of {FLOATS}, got {self.remaining!r}")
        check_chain([step.method for step in self.steps])

    @classmethod
    def load(cls, name_or_path: str | Path) -> Recipe:
        """A recipe of the package by its name, the one in a .toml file, or a method's name.

        A method's name means one step with its defaults, retrained as `RETRAINING` has it for its kind.

        Raises:
            RecipeError: there is none, or something in it is unknown or out of range (line and key named).
        """
        path = Path(name_or_path)
        if path.suffix != ".toml":
            name = str(name_or_path)
            if name in METHODS and name not in builtin_recipes():
                return of_method(name)
            if name not in builtin_recipes():
                raise RecipeError(_no_recipe(name))
            text = resources.files("dovetail").joinpath("recipes", f"{name_or_path}.toml").read_text("utf-8")
            return parse(text, f"{name_or_path}.toml")
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"cannot read the recipe {path}: {error}") from error
        return parse(text, str(path))

    def with_budget(self, budget: Budget | float) -> Recipe:
        """This recipe with the budget (or the sparsity, if it is a number) of the first step that has one replaced.

        Raises:
            RecipeError: no step's method has one; says which methods do.
        """
        if isinstance(budget, Budget):
            return self._with("budget", budget, budget.quantity, budget.fraction)
        return self._with("sparsity", budget, "sparsity", budget)

    def with_bits(self, bits: float) -> Recipe:
        """This recipe with the mean bits of a weight of the first step that can have them replaced.

        Raises:
            RecipeError: no step's method can; says which methods do.
        """
        return self._with("mean_bits", bits, "bits", bits)

    def _with(self, field: str, value: Budget | float, option: str, number: float) -> Recipe:
        """This recipe with the field of the first step that has it replaced, as the command line's option would."""
        for at, step in enumerate(self.steps):
            if _has(type(step.method), field):
                try:
                    method = replace(step.method, **{field: value})  # type: ignore[arg-type]
                except RecipeError as error:
                    raise RecipeError(f"--{option} {number:g}: {error}") from error
                steps = (*self.steps[:at], replace(step, method=method), *self.steps[at + 1 :])
                return replace(self, steps=steps, changes=(*self.changes, f"--{option}", f"{number:g}"))
        able = [name for name, method in METHODS.items() if _has(method, field)]
        raise RecipeError(
            f"no step of the recipe {self.name} takes a {field if field == 'sparsity' else f'budget of {option}'}; "
            f"the methods that do are {', '.join(able) or 'none yet'}"
        )

    def without_training(self) -> Recipe:
        """This recipe without retraining after any step."""
        steps = tuple(replace(step, training=None) for step in self.steps)
        return self if steps == self.steps else replace(self, steps=steps, changes=(*self.changes, "--no-training"))


def fitting_recipe(quantity: str, *, retrained: bool) -> Recipe:
    """What to take for a budget of "macs", "params", "latency", "sparsity" or "bits" when no recipe is named.

    Single weights are pruned for sparsity, and rounded for bits. For the rest channels are removed where the network
    can be retrained, and layers are decomposed where not: a decomposition loses less at first, and fewer channels are
    faster.
    """
    if quantity == "sparsity":
        return Recipe.load("deep_compression")
    if quantity == "bits":
        return Recipe.load("mixed")
    return Recipe.load("channels" if retrained else "lowrank")


def of_method(name: str) -> Recipe:
    """One step: the method called `name` with its defaults, retrained as fits its kind."""
    method = METHODS[name]()
    usual = RETRAINING[method.kind] if method.retrains else None
    training = None if usual is None else paced(usual, method)
    return Recipe(name=name, steps=(RecipeStep(method=method, training=training),))


def paced(training: Training, method: Method) -> Training:
    """The same training at the method's pace; gradients have norm 1 at most where it is slow."""
    norm = 1.0 if method.pace < 1 else training.max_gradient_norm
    return replace(training, learning_rate=training.learning_rate * method.pace, max_gradient_norm=norm)


def _has(method: type[Method], field: str) -> bool:
    return field in {own.name for own in fields(method)}


def _no_recipe(name: str) -> str:
    known = [*builtin_recipes(), *METHODS]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = (
        f"did you mean {' or '.join(map(repr, near))}?" if near else f"the recipes are {', '.join(builtin_recipes())}"
    )
    return (
        f"no recipe or method is called {name!r}; {hint} (a method's name, as `dovetail list methods` has them, is a "
        "recipe of one step; a recipe of your own is a file whose name ends in .toml)"
    )


def parse(text: str, source: str) -> Recipe:
    """The recipe written in `text`; `source` names it in messages.

    Raises:
        RecipeError: not TOML, or an unknown or ill-valued key; the message names line and key.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{source}: not valid TOML: {error}") from error
    reader = _Reader(text, source)
    reader.refuse_unknown(tables, ("name", "remaining", "step"), "")
    steps = tables.get("step", [])
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        raise RecipeError(f"{source}: a recipe needs at least one [[step]] table")
    name = tables.get("name", Path(source).stem)
    remaining = tables.get("remaining", "float32")
    if not isinstance(name, str) or remaining not in FLOATS:
        key = "remaining" if isinstance(name, str) else "name"
        expected = f"one of {', '.join(FLOATS)}" if key == "remaining" else "text"
        raise reader.error("", key, f"must be {expected}, got {tables[key]!r}")
    return Recipe(
        name=name,
        steps=tuple(reader.step(step, f"step {number}") for number, step in enumerate(steps, 1)),
        remaining=remaining,
        text=text,
    )


ILLEGAL: dict[tuple[Kind, Kind], str] = {
    ("rebuild", "shrink"): "what goes is chosen by how whole layers respond, and these layers are factors by then",
    ("prune", "shrink"): "the masks were made for weights that would be gone",
    ("prune", "rebuild"): "the factors of a sparse weight are dense, so its zeros would be lost",
    ("share", "shrink"): "the values are shared by weights that would be gone",
    ("share", "rebuild"): "the factors of shared values are not shared values",
    ("share", "prune"): "the shared values were fitted to weights that would be gone",
    ("code", "shrink"): "codes are made of the final weights",
    ("code", "rebuild"): "codes are made of the final weights",
    ("code", "prune"): "codes are made of the final weights",
    ("code", "share"): "codes are made of the final weights",
}
"""Why a step of the second kind may not come after one of the first."""


def check_chain(methods: Sequence[Method]) -> None:
    """Raise a RecipeError unless the methods stand in an order that keeps what each has gained."""
    for position, later in enumerate(methods):
        for earlier in methods[:position]:
            if reason := ILLEGAL.get((earlier.kind, later.kind)):
                order = " > ".join(method.name for method in sorted(methods, key=lambda m: KINDS.index(m.kind)))
                raise RecipeError(f"{later.name} cannot follow {earlier.name}: {reason}; the right order is {order}")


@dataclass(frozen=True)
class _Reader:
    """Turns tables into methods and trainings, and knows on which line a key stands."""

    text: str
    source: str

    def step(self, table: Mapping[str, Any], where: str) -> RecipeStep:
        settings = dict(table)
        method_name = settings.pop("method", None)
        training = settings.pop("training", None)
        if method_name is None:
            raise self.error(where, "method", f"is missing; the methods are {', '.join(METHODS)}")
        if method_name not in METHODS:
            raise self.error(where, "method", f"{method_name!r} is unknown{keys.hint(str(method_name), METHODS)}")
        method = self.build(METHODS[method_name], settings, where)
        if training is None:
            return RecipeStep(method=method)
        if not isinstance(training, dict):
            raise self.error(where, "training", f"must be a table, got {training!r}")
        return RecipeStep(method=method, training=self.build(Training, training, f"{where}.training"))

    def build(self, kind: type[T], settings: Mapping[str, Any], where: str) -> T:
        for path, reason in keys.problems(settings, kind):
            raise self.error(where, path, reason)
        try:
            return msgspec.convert(settings, kind)
        except msgspec.ValidationError as error:
            reason = str(error).split(" - at ")[0]
            raise self.error(where, _mentioned(reason, settings), reason) from error

    def refuse_unknown(self, table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
        for key in table:
            if key not in known:
                raise self.error(where, key, f"is unknown{keys.hint(key, known)}")

    def error(self, where: str, key: str, reason: str) -> RecipeError:
        line = self.line_of(where, key)
        return RecipeError(f"{self.source}, line {line}: {f'{where}, ' if where else ''}key {key!r}: {reason}")

    def line_of(self, where: str, key: str) -> int:
        """The line of `key` in the table `where` ("", "step 2" or "step 2.training"), or else of the table itself."""
        step = int(found.group(1)) if (found := re.match(r"step (\d+)", where)) else 0
        seen, table_line = 0, 1
        for number, line in enumerate(self.text.splitlines(), 1):
            if re.match(r"\s*\[\[\s*step\s*\]\]", line):
                seen += 1
                if seen == step:
                    table_line = number
            elif seen == step and re.search(rf"(^|[\s{{,.\"']){re.escape(key.split('.')[0])}[\"']?\s*=", line):
                return number
        return table_line


def _mentioned(reason: str, settings: Mapping[str, Any]) -> str:
    """The key that a message of a dataclass's own check ("magnitude.sparsity must be ...") speaks of."""
    return next((key for key in settings if re.search(rf"\b{key}\b", reason)), next(iter(settings), ""))
