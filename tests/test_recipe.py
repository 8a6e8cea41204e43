"""Recipes: what is read, and how a mistake is answered."""

import pytest

from dovetail.errors import RecipeError
from dovetail.methods import METHODS
from dovetail.recipe import Recipe, builtin_recipes, parse

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
        ("0.8", '"most"', r"line 7: step 1, key 'sparsity': Expected `float`, got `str`"),
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
    with pytest.raises(RecipeError, match="no recipe is called 'shallow'; the package has deep_compression"):
        Recipe.load("shallow")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(RecipeError, match=r"cannot read the recipe nowhere.toml"):
        Recipe.load("nowhere.toml")
