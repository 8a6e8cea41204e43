"""The closed form equals a simulation that runs all loops, access for access, and what it computes is the layer."""

import itertools
import math
from random import Random

import numpy as np
import pytest

from dovetail.hardware.arch import Arithmetic, Chip, Dimension, Memory, OperationEnergy, Source
from dovetail.hardware.counts import count
from dovetail.hardware.layer import LOOPS, OPERANDS, Layer
from dovetail.hardware.loops import Machine
from dovetail.hardware.mapping import Mapping

SOURCE = (Source(says="made up", status="assumed"),)


def _some(random, choices):
    return tuple(choice for choice in choices if random.random() < 0.5)


def _chip(random):
    """Two to four levels, each operand through some of them; every kind of link; shared, per-row and per-element."""
    dimensions = tuple(
        Dimension(
            name=name,
            size=16,
            unroll=LOOPS,
            links={
                "I": random.choice(("multicast", "forward", "none")),
                "W": random.choice(("multicast", "forward", "none")),
                "O": random.choice(("reduce", "forward", "none")),
            },
        )
        for name in ("x", "y", "z")[: random.choice((0, 1, 2, 2, 3))]
    )
    per = tuple(dimension.name for dimension in dimensions)
    memories = []
    for level in range(random.choice((1, 2, 2, 3, 3))):
        per = per if random.random() < 0.5 else _some(random, per)
        memories.append(_memory(random, f"memory{level}", _some(random, OPERANDS) or OPERANDS, per, 1 << 20))
    per = per if random.random() < 0.2 else ()
    apart = random.sample(OPERANDS, random.choice((0, 0, 1)))
    memories.append(_memory(random, "outermost", tuple(o for o in OPERANDS if o not in apart), per, None))
    memories += [_memory(random, f"outermost {o}", (o,), per, None) for o in apart]
    return Chip(
        name="some chip",
        title="",
        kind="spatial",
        clock_mhz=1.0,
        node_nm=1.0,
        dimension=dimensions,
        arithmetic=Arithmetic(
            operation=(OperationEnergy(input_bits=16, weight_bits=16, cycles=random.choice((1, 2, 0.5))),), sum_bits=32
        ),
        memory=tuple(memories),
        source=SOURCE,
        settings={"latched": _some(random, OPERANDS) if random.random() < 0.3 else ()}
        | ({"halo_reuse": False} if random.random() < 0.2 else {}),
    )


def _memory(random, name, operands, per, size):
    shared = random.random() < 0.3
    return Memory(
        name=name,
        operands=operands,
        bytes=size,
        per=per,
        width_bits=16,
        read_bandwidth=random.choice((8, 64, 256) if shared else (None, 8, 64, 256)),
        write_bandwidth=None if shared else random.choice((None, 8, 64, 256)),
        shared_port=shared,
        double_buffered=random.random() < 0.5,
        compressed=_some(random, operands) if random.random() < 0.3 else (),
    )


def _layer_and_mapping(random, chip, most=160):
    """Factors of 1 to 4 shuffled over time and space; loops that are padded; tiles as uneven as may be."""
    temporal, spatial = [], {dimension.name: [] for dimension in chip.dimension}
    macs = 1
    for _ in range(random.randrange(9)):
        loop, number = random.choice(LOOPS + ("P", "R", "Q", "S", "C")), random.choice((1, 2, 2, 3, 3, 4))
        if macs * number > most:
            continue
        macs *= number
        name = random.choice([None, *spatial])
        if name is not None and math.prod(n for _, n in spatial[name]) * number <= 16 and random.random() < 0.7:
            spatial[name].append((loop, number))
        else:
            temporal.append((loop, number))
    covered = range(len(temporal) + 1)
    mapping = Mapping(
        spatial={name: tuple(factors) for name, factors in spatial.items()},
        temporal=tuple(temporal),
        inside=random.choice(covered),
        held={o: tuple(sorted(random.choice(covered) for _ in chip.chain(o)[1:])) for o in OPERANDS},
    )
    extents = {
        loop: number if random.random() < 0.8 else random.randint(1, number)
        for loop, number in mapping.factors().items()
    }
    pairs = [(random.randint(1, 4), random.randint(1, 4)) if random.random() < 0.6 else (1, 1) for _ in range(2)]
    layer = Layer(
        "some layer",
        extents,
        *pairs,
        bits={"I": random.choice((4, 8, 16)), "W": random.choice((2, 8)), "O": random.choice((8, 16))},
        density={"I": 0.5, "W": 0.25, "O": 0.75},
    )
    return layer, mapping


def _values(random, layer):
    """Integers for every input and weight, by their place."""
    e, (rows, columns) = layer.extents, layer.input_size
    shapes = {"I": (e["G"], e["N"], e["C"], rows, columns), "W": (e["G"], e["K"], e["C"], e["R"], e["S"])}
    return {
        operand: {place: random.randint(-9, 9) for place in itertools.product(*map(range, shape))}
        for operand, shape in shapes.items()
    }


def _convolution(layer, values):
    e, (down, right), (rows, columns) = layer.extents, layer.stride, layer.dilation
    sums = {}
    for g, n, k, c, p, q, r, s in itertools.product(*(range(e[loop]) for loop in LOOPS)):
        product = values["W"][g, k, c, r, s] * values["I"][g, n, c, p * down + r * rows, q * right + s * columns]
        sums[g, n, k, p, q] = sums.get((g, n, k, p, q), 0) + product
    return sums


@pytest.mark.parametrize("seed", range(20))
def test_closed_form_equals_simulation(seed):
    random = Random(seed)
    for case in range(50):
        chip = _chip(random)
        layer, mapping = _layer_and_mapping(random, chip)
        values = _values(random, layer)
        machine = Machine(chip, layer, mapping, values)
        outputs, counts = machine.run(), count(chip, layer, mapping)
        told = f"seed {seed}, case {case}:\n{chip}\n{layer}\n{mapping}"

        assert all(outputs[place] == value for place, value in _convolution(layer, values).items()), told
        found = {(a.memory, a.operand, a.action): (a.elements, a.bits) for a in counts.accesses}
        tally = machine.tally
        assert found == {kind: (number, pytest.approx(tally.bits[kind])) for kind, number in tally.elements.items()}, (
            told
        )
        assert {(h.dimension, h.operand): h.bits for h in counts.hops} == {k: v for k, v in tally.hops.items() if v}, (
            told
        )
        simulated = machine.cycles()
        assert counts.cycles.total == pytest.approx(simulated.total), told
        assert counts.cycles.filling == pytest.approx(simulated.filling), told
        assert counts.cycles.draining == pytest.approx(simulated.draining), told
        assert counts.cycles.stalled == pytest.approx(simulated.stalled), told
