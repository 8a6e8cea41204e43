"""Layers on spatial chips: each shape solved once, kept on disk by content."""

import json

import pytest

from dovetail.hardware import mapper, spatial
from dovetail.hardware.layer import Layer
from dovetail.hardware.spatial import layer_costs

from .spatial_chips import eyeriss_like

SHAPE = {"K": 16, "C": 16, "P": 8, "Q": 8}


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    """Names of the layers that were searched for, with a cache of the test's own."""
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path))
    names = []

    def search(chip, layer, *arguments, **options):
        names.append(layer.name)
        return mapper.best_mapping(chip, layer, *arguments, **options)

    monkeypatch.setattr(spatial, "best_mapping", search)
    return names


def test_same_shapes_are_solved_once(calls):
    one, two, other = layer_costs(eyeriss_like(), [Layer("a", SHAPE), Layer("b", SHAPE), Layer("c", SHAPE | {"K": 8})])
    assert calls == ["a", "c"]
    assert [cost.layer.name for cost in (one, two, other)] == ["a", "b", "c"]
    assert one.mapping == two.mapping != other.mapping


def test_costs_are_whole(calls):
    (cost,) = layer_costs(eyeriss_like(), [Layer("a", SHAPE)], "edp")
    assert cost.objective == "edp" and cost.value == cost.picojoules * cost.cycles
    assert 0 < cost.lower_bound <= cost.value
    assert 0 < cost.utilisation <= 1


def test_what_was_found_is_kept_whatever_the_name(calls):
    (found,) = layer_costs(eyeriss_like(), [Layer("a", SHAPE)])
    (kept,) = layer_costs(eyeriss_like(title="another title"), [Layer("b", SHAPE)])
    assert calls == ["a"]
    assert (kept.mapping, kept.value, kept.lower_bound) == (found.mapping, found.value, found.lower_bound)


@pytest.mark.parametrize("change", ["objective", "chip", "layer", "version"])
def test_what_matters_is_part_of_the_key(change, calls, monkeypatch):
    layer_costs(eyeriss_like(), [Layer("a", SHAPE)])
    if change == "version":
        monkeypatch.setattr(spatial, "VERSION", -1)
    layer_costs(
        eyeriss_like(**({"idle_milliwatts": 1.0} if change == "chip" else {})),
        [Layer("b", SHAPE, density={"I": 0.5} if change == "layer" else {})],
        "latency" if change == "objective" else "energy",
    )
    assert calls == ["a", "b"]


@pytest.mark.parametrize("damage", ["", "{", "[1, 2]", '{"mapping": 1, "lower_bound": 0}', "another layer's"])
def test_damaged_files_are_found_anew(damage, calls, tmp_path):
    (found,) = layer_costs(eyeriss_like(), [Layer("a", SHAPE)])
    (file,) = (tmp_path / "mappings").iterdir()
    if damage == "another layer's":
        entry = json.loads(file.read_text())
        entry["mapping"]["temporal"] = []
        damage = json.dumps(entry)
    file.write_text(damage)
    (again,) = layer_costs(eyeriss_like(), [Layer("b", SHAPE)])
    assert calls == ["a", "b"] and again.mapping == found.mapping
    assert len(list((tmp_path / "mappings").iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, calls, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path / "file"))
    assert layer_costs(eyeriss_like(), [Layer("a", SHAPE)])


def test_what_was_cut_short_by_the_clock_is_not_kept(calls, tmp_path):
    layer_costs(eyeriss_like(), [Layer("a", SHAPE)], seconds=1.0)
    assert not list(tmp_path.iterdir())
