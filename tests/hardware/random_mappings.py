"""Random small layers, chips and mappings: whatever the nouns allow, likely or not."""

import math
from collections.abc import Sequence
from random import Random
from typing import TypeVar

from dovetail.hardware.arch import Arithmetic, Chip, Dimension, Memory, OperationEnergy, Source
from dovetail.hardware.layer import LOOPS, OPERANDS, Layer, Loop, Operand
from dovetail.hardware.mapping import Factor, Mapping

SIZE = 16
T = TypeVar("T")


def some(random: Random, choices: Sequence[T]) -> tuple[T, ...]:
    return tuple(choice for choice in choices if random.random() < 0.5)


def random_chip(random: Random) -> Chip:
    """One to four levels, operands that pass them by, links of every kind, shared memories, per row and per element."""
    dimensions = tuple(
        Dimension(
            name=name,
            size=SIZE,
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
    for level in range(random.choice((0, 1, 2, 2, 3, 3))):
        per = per if random.random() < 0.5 else some(random, per)
        memories.append(random_memory(random, f"memory {level}", some(random, OPERANDS) or OPERANDS, per, 1 << 20))
    per = per if random.random() < 0.2 else ()
    apart = random.sample(OPERANDS, random.choice((0, 0, 1)))
    memories.append(random_memory(random, "outermost", tuple(o for o in OPERANDS if o not in apart), per, None))
    memories += [random_memory(random, f"outermost of {operand}", (operand,), per, None) for operand in apart]
    settings = {"latched": some(random, OPERANDS)} if random.random() < 0.3 else {}
    return Chip(
        name="some chip",
        title="",
        kind="spatial",
        clock_mhz=1.0,
        node_nm=1.0,
        idle_milliwatts=0.0,
        dimension=dimensions,
        arithmetic=Arithmetic(
            operation=(OperationEnergy(input_bits=16, weight_bits=16, cycles=random.choice((1, 2, 0.5))),), sum_bits=32
        ),
        memory=tuple(memories),
        source=(Source(says="made up", status="assumed"),),
        settings=settings | ({"halo_reuse": False} if random.random() < 0.2 else {}),
    )


def random_memory(
    random: Random, name: str, operands: tuple[Operand, ...], per: tuple[str, ...], size: int | None
) -> Memory:
    shared = random.random() < 0.3
    return Memory(
        name=name,
        operands=operands,
        bytes=size,
        per=per,
        width_bits=random.choice((16, 24, 100)),
        read_bandwidth=random.choice((8, 64, 256) if shared else (None, 8, 64, 256)),
        write_bandwidth=None if shared else random.choice((None, 8, 64, 256)),
        shared_port=shared,
        double_buffered=random.random() < 0.5,
        compressed=some(random, operands) if random.random() < 0.3 else (),
        whole_words=random.random() < 0.5,
    )


def random_layer(random: Random, chip: Chip, most: int = 160) -> tuple[Layer, Mapping]:
    """Factors shuffled over time and space, loops that are padded to them, tiles as uneven as may be."""
    temporal: list[Factor] = []
    spatial: dict[str, list[Factor]] = {dimension.name: [] for dimension in chip.dimension}
    macs = 1
    for _ in range(random.randrange(9)):
        loop: Loop = random.choice((*LOOPS, "C", "P", "R", "Q", "S"))
        number = random.choice((1, 2, 2, 3, 3, 4))
        if macs * number <= most:
            macs *= number
            factors = random.choice([temporal, temporal, *spatial.values()])
            room = factors is temporal or math.prod(n for _, n in factors) * number <= SIZE
            (factors if room else temporal).append((loop, number))
    covered = range(len(temporal) + 1)
    mapping = Mapping(
        spatial={name: tuple(factors) for name, factors in spatial.items()},
        temporal=tuple(temporal),
        inside=random.choice(covered),
        held={o: tuple(sorted(random.choice(covered) for _ in chip.chain(o)[1:])) for o in OPERANDS},
    )
    products = mapping.factors()
    extents = {loop: random.choice((products[loop], random.randint(1, products[loop]))) for loop in LOOPS}
    return Layer(
        "some layer",
        extents,
        *(random.choice(((1, 1), (random.randint(1, 4), random.randint(1, 4)))) for _ in ("stride", "dilation")),
        bits={"I": random.choice((4, 8, 16)), "W": random.choice((2, 8)), "O": random.choice((8, 16))},
        density={"I": 0.5, "W": 0.25, "O": 0.75},
    ), mapping
