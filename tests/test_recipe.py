"""Recipes: what is read, and how a mistake is answered."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from torch import nn

from dovetail.errors import RecipeError
from dovetail.methods import METHODS
from dovetail.methods.budget import Budget
from dovetail.methods.decomposition import Decomposition, Setting
from dovetail.methods.layers import stack
from dovetail.recipe import RETRAINING, Recipe, builtin_recipes, paced, parse

GOOD = """
name = "mine"
remaining = "float16"

[[step]]
method = "magnitude"
sparsity = 0.8
keep = { conv1 = 0.9 }

[step.training]
epochs = 2
learning_rate = 0.02

[[step]]
method = "weight_sharing"
layers = ["fc*"]
bits = 3
"""

BUDGETED = """
[[step]]
method = "twice"
budget = { macs = 0.3 }

[[step]]
method = "magnitude"
"""


@dataclass(frozen=True, kw_only=True)
class Twice(Decomposition):
    """A linear layer as two."""

    name: ClassVar[str] = "twice"

    def accepts(self, layer: nn.Module) -> bool:
        return isinstance(layer, nn.Linear)

    def options(self, layer: nn.Module) -> list[Setting]:
        return [{"rank": 4}, {"rank": 2}]

    def build(self, layer: nn.Module, setting: Setting) -> nn.Sequential:
        assert isinstance(layer, nn.Linear)
        rank = setting["rank"]
        return stack({"a": nn.Linear(layer.in_features, rank), "b": nn.Linear(rank, layer.out_features)})


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "twice", Twice)


def test_a_recipe_says_what_to_do() -> None:
    recipe = parse(GOOD, "mine.toml")
    assert [step.method.name for step in recipe.steps] == ["magnitude", "weight_sharing"]
    first, second = recipe.steps
    assert first.training is not None and first.training.epochs == 2 and second.training is None
    assert first.method == METHODS["magnitude"](sparsity=0.8, keep={"conv1": 0.9})
    assert second.method == METHODS["weight_sharing"](layers=("fc*",), bits=3)
    assert (recipe.name, recipe.remaining, recipe.text) == ("mine", "float16", GOOD)


@pytest.mark.parametrize("name", builtin_recipes())
def test_the_packages_recipes_are_sound(name: str) -> None:
    assert Recipe.load(name).name == name


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("magnitude", "magnitud", r"mine.toml, line 6: step 1, key 'method': 'magnitud' is unknown; .*'magnitude'"),
        ("sparsity =", "sparsty =", r"line 7: step 1, key 'sparsty': is unknown; did you mean 'sparsity'"),
        ("0.8", "8", r"line 7: step 1, key 'sparsity': magnitude.sparsity must be a fraction in \[0, 1\), got 8"),
        ("0.8", '"most"', r"line 7: step 1, key 'sparsity': must be a number, got 'most'"),
        ("0.9", "0.0", r"line 8: step 1, key 'keep': magnitude.keep.conv1 must be a fraction in \(0, 1\], got 0.0"),
        ("epochs = 2", "epochs = -2", r"line 11: step 1.training, key 'epochs': .*is a whole number >= 0"),
        ("learning_rate", "lr", r"line 12: step 1.training, key 'lr': is unknown"),
        ("bits = 3", "bits = 13", r"line 17: step 2, key 'bits': weight_sharing.bits must be from 1 to 8, got 13"),
        ("bits = 3", "bits = 3\nbits = 4", r"mine.toml: not valid TOML: Cannot overwrite a value \(at line 18"),
        ("float16", "float8", r"line 3: key 'remaining': must be one of float32, float16, bfloat16, got 'float8'"),
        ("name", "nom", r"line 2: key 'nom': is unknown"),
    ],
)
def test_a_mistake_is_named_with_its_line(old: str, new: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse(GOOD.replace(old, new, 1), "mine.toml")


def test_a_recipe_without_steps_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"needs at least one \[\[step\]\]"):
        parse('name = "nothing"', "mine.toml")


def test_an_unknown_recipe_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"'qqq'; the recipes are .*deep_compression"):
        Recipe.load("qqq")


def test_a_method_that_bears_little_is_retrained_gently() -> None:
    slow, usual = (Recipe.load(name).steps[0].training for name in ("cp", "tucker2"))
    assert slow and usual and slow.learning_rate == usual.learning_rate / 4
    assert slow.max_gradient_norm == 1 and usual.max_gradient_norm is None


def test_networks_of_signs_are_retrained_boldly() -> None:
    fast, usual = (Recipe.load(name).steps[0].training for name in ("binary_maps", "bwn"))
    assert fast and usual and fast == replace(usual, learning_rate=3 * usual.learning_rate)


@pytest.mark.parametrize(("name", "near"), [("magnitud", "'magnitude'"), ("deep", "'deep_compression'")])
def test_an_unknown_name_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(RecipeError, match=f"did you mean .*{near}"):
        Recipe.load(name)


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_name_is_a_recipe_of_one_step(name: str) -> None:
    (step,) = Recipe.load(name).steps
    usual = RETRAINING[step.method.kind] if step.method.retrains else None
    assert step.method == METHODS[name]()
    assert step.training == (paced(usual, step.method) if usual else None)


def test_a_budget_is_a_table() -> None:
    recipe = parse(BUDGETED, "mine.toml")
    assert recipe.steps[0].method == Twice(budget=Budget(macs=0.3))


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("{ macs = 3 }", r"line 4: step 1, key 'budget': budget.macs must be a fraction in \(0, 1\), got 3"),
        ("{ macs = 0.3, params = 0.2 }", r"line 4: step 1, key 'budget': a budget is one of macs, params and latency"),
        ("{ }", r"line 4: step 1, key 'budget': a budget is one of .*got none"),
        ("{ mac = 0.3 }", r"line 4: step 1, key 'budget.mac': is unknown; did you mean 'macs'"),
        ('{ macs = "less" }', r"line 4: step 1, key 'budget.macs': must be a number"),
        ("0.3", r"line 4: step 1, key 'budget': must be a table"),
    ],
)
def test_a_wrong_budget_is_named_with_its_line(budget: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse(BUDGETED.replace("{ macs = 0.3 }", budget), "mine.toml")


def test_a_budget_given_goes_to_the_first_step_that_takes_one() -> None:
    recipe = parse(BUDGETED, "mine.toml").with_budget(Budget(params=0.2)).with_budget(0.5)
    assert recipe.steps[0].method == Twice(budget=Budget(params=0.2))
    assert recipe.steps[1].method == METHODS["magnitude"](sparsity=0.5)
    assert recipe.changes == ("--params", "0.2", "--sparsity", "0.5")


def test_a_budget_that_no_step_takes_is_refused_with_those_that_would() -> None:
    with pytest.raises(RecipeError, match=r"weight_sharing takes a budget of macs; the methods that do are .*twice"):
        Recipe.load("weight_sharing").with_budget(Budget(macs=0.3))
    with pytest.raises(RecipeError, match=r"twice takes a sparsity; the methods that do are .*magnitude"):
        Recipe.load("twice").with_budget(0.3)
    with pytest.raises(RecipeError, match=r"magnitude.sparsity must be a fraction in \[0, 1\), got 1.0"):
        Recipe.load("magnitude").with_budget(1.0)


def test_a_recipe_without_training_says_so() -> None:
    recipe = Recipe.load("magnitude").without_training()
    assert recipe.steps[0].training is None and recipe.changes == ("--no-training",)
    assert recipe.without_training() == recipe


def test_a_missing_file_is_named() -> None:
    with pytest.raises(RecipeError, match=r"cannot read the recipe nowhere.toml"):
        Recipe.load("nowhere.toml")
