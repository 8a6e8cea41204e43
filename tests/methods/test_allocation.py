"""Sharing out a budget: optimal against brute force, never worse than greedy, and honest where it cannot be met."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.errors import RecipeError
from dovetail.methods.allocation import Option, allocate, greedy, measured_at, rises
from dovetail.methods.budget import Budget

OPTIONS = st.dictionaries(
    st.sampled_from("abcd"),
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=4),
    min_size=1,
)


def total(chosen: dict[str, Option]) -> tuple[float, float]:
    return sum(option.cost for option in chosen.values()), sum(option.loss for option in chosen.values())


@settings(deadline=None, max_examples=60)
@given(OPTIONS, st.floats(0, 1))
def test_is_the_best_of_all_choices(drawn: dict[str, list[tuple[int, int]]], share: float) -> None:
    options = {layer: [Option(i, *pair) for i, pair in enumerate(pairs)] for layer, pairs in drawn.items()}
    least = sum(min(option.cost for option in own) for own in options.values())
    most = sum(max(option.cost for option in own) for own in options.values())
    limit = least + share * (most - least)
    cost, loss = total(allocate(options, limit))
    choices = [total(dict(zip(options, choice, strict=True))) for choice in itertools.product(*options.values())]
    assert cost <= limit * (1 + 1e-6)
    assert loss == pytest.approx(min(own for price, own in choices if price <= limit))
    greedy_cost, greedy_loss = total(greedy(options, limit))
    assert greedy_cost <= limit and greedy_loss >= loss


def test_greedy_is_beaten_where_one_large_step_is_better() -> None:
    options = {
        "a": [Option(None, 10, 0), Option(1, 9, 0.1), Option(2, 0, 2.0)],
        "b": [Option(None, 10, 0), Option(1, 4, 1.0)],
    }
    assert total(allocate(options, 11))[1] == 2.0
    assert total(greedy(options, 11))[1] >= 2.0


def test_a_gain_by_chance_counts_for_nothing() -> None:
    options = {"a": [Option(None, 5, 0.0), Option(1, 4, -3.0)], "b": [Option(None, 5, 0.0), Option(1, 4, 0.0)]}
    assert [option.cost for option in allocate(options, 10).values()] == [4, 4]


def test_says_what_is_the_least_possible() -> None:
    with pytest.raises(RecipeError, match=r"the budget macs = 0.1 cannot be met: 1 is asked for, and 4 is the least"):
        allocate({"a": [Option(None, 9, 0), Option(1, 4, 1)]}, 1, "budget macs = 0.1")


@pytest.mark.parametrize("wrong", [{}, {"macs": 0.5, "params": 0.5}, {"macs": 0.0}, {"params": 1.0}, {"latency": -1.0}])
def test_a_budget_is_one_fraction(wrong: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match="budget"):
        Budget(**wrong)


def test_a_budget_says_what_it_is_of() -> None:
    assert (Budget(latency=0.25).quantity, Budget(latency=0.25).fraction) == ("latency", 0.25)


@given(st.integers(1, 12), st.integers(1, 12))
def test_the_settings_to_measure_are_spread_and_have_the_last(settings_count: int, probes: int) -> None:
    chosen = measured_at(settings_count, probes)
    assert chosen == sorted(set(chosen)) and chosen[-1] == settings_count - 1 and chosen[0] >= 0
    assert len(chosen) == min(settings_count, probes)


def test_rises_between_those_measured_are_in_proportion() -> None:
    errors = [0.1, 0.2, 0.4, 0.8]
    assert rises(errors, {3: 1.6}) == pytest.approx([0.2, 0.4, 0.8, 1.6])
    assert rises(errors, {0: 0.1, 2: 0.8}) == pytest.approx([0.1, 0.2 * (1 + 1 / 3), 0.8, 1.6])
    assert rises(errors, dict(enumerate([0.5, 0.4, 0.3, 0.2]))) == [0.5, 0.4, 0.3, 0.2]
