"""Small spatial chips, and mappings of small layers on them: what the mapper is judged by."""

import itertools
import random
from collections.abc import Iterator

from dovetail.hardware.arch import Arithmetic, Chip, Dimension, Memory, OperationEnergy, Source
from dovetail.hardware.layer import LOOPS, OPERANDS, Layer
from dovetail.hardware.mapping import Mapping

ELEMENT = ("rows", "columns")


def chip(dimensions: tuple[Dimension, ...], memories: tuple[Memory, ...], bits: int, **fields) -> Chip:
    operation = OperationEnergy(input_bits=bits, weight_bits=bits, picojoules=1.0)
    fields = {"name": "small", "clock_mhz": 100.0, "sum_bits": 2 * bits, "idle_milliwatts": 0.0} | fields
    return Chip(
        title=fields.pop("title", "for tests"),
        kind="spatial",
        node_nm=65,
        dimension=dimensions,
        arithmetic=Arithmetic(operation=(operation,), sum_bits=fields.pop("sum_bits")),
        memory=memories,
        source=(Source(says="made up", status="assumed"),),
        **fields,
    )


def memory(name: str, operands: tuple[str, ...], **fields) -> Memory:
    fields = {"width_bits": 8, "read_picojoules": 1.0, "write_picojoules": 1.0} | fields
    return Memory(name=name, operands=operands, **fields)


def eyeriss_like(**fields) -> Chip:
    """12 x 14 elements with registers, a shared buffer and DRAM; energies 1, 6 and 200 to a multiplication's 1."""
    dimensions = tuple(
        Dimension(name=name, size=size, unroll=LOOPS) for name, size in zip(ELEMENT, (12, 14), strict=True)
    )
    outside = {"width_bits": 16}
    memories = (
        *(
            memory(f"{operand} registers", (operand,), bytes=size, per=ELEMENT, width_bits=16)
            for operand, size in {"I": 24, "W": 448, "O": 48}.items()
        ),
        memory("buffer", OPERANDS, bytes=108 * 1024, read_picojoules=6.0, write_picojoules=6.0, **outside),
        memory("DRAM", OPERANDS, read_picojoules=200.0, write_picojoules=200.0, **outside),
    )
    return chip(dimensions, memories, 16, **({"name": "like Eyeriss", "sum_bits": 16} | fields))


def random_small_chip(rng: random.Random) -> Chip:
    """One or two dimensions, up to three levels, everything that changes what is counted now and then."""

    def links() -> dict[str, str]:
        return {
            operand: rng.choice(["reduce" if operand == "O" else "multicast"] * 2 + ["none"]) for operand in OPERANDS
        }

    def some(name: str, operands: tuple[str, ...], sizes: tuple[int, ...], **fields) -> Memory:
        prices = {f"{action}_picojoules": rng.choice([1.0, 2.0, 5.0, 9.0]) for action in ("read", "write")}
        bits = [rng.choice([4.0, 16.0, 64.0]) for _ in range(2)]
        ports = rng.choice(
            [
                {},
                {"read_bandwidth": bits[0], "write_bandwidth": bits[1]},
                {"read_bandwidth": bits[0], "shared_port": True},
            ]
        )
        doubled = bool(sizes) and rng.random() < 0.3
        size = rng.choice(sizes) if sizes else None
        words = {"width_bits": min(rng.choice([8, 24, 40]), 8 * (size or 5)), "whole_words": rng.random() < 0.4}
        return memory(name, operands, bytes=size, double_buffered=doubled, **words, **prices, **ports, **fields)

    names = ELEMENT[: rng.choice([1, 2])]
    dimensions = tuple(
        Dimension(name=name, size=rng.choice([1, 2, 3, 4]), unroll=tuple(rng.sample(LOOPS, 5)), links=links())
        for name in names
    )
    style = rng.choice(["registers", "one register file", "weights by row", "none"])
    inner = {
        "registers": lambda: [
            some(f"{operand} register", (operand,), (2, 3, 4, 8), per=names)
            for operand in rng.sample(OPERANDS, rng.choice([1, 2, 3]))
        ],
        "one register file": lambda: [some("registers", OPERANDS, (8, 16, 24), per=names)],
        "weights by row": lambda: [some("row", ("W",), (2, 4, 8), per=names[:1])],
        "none": lambda: [],
    }[style]()
    if style == "none" or rng.random() < 0.6:
        inner.append(some("buffer", tuple(rng.sample(OPERANDS, rng.choice([1, 2, 3]))), (16, 24, 40, 64)))
    settings = {}
    if rng.random() < 0.2:
        settings["latched"] = rng.sample(OPERANDS, rng.choice([1, 2]))
    if rng.random() < 0.2:
        settings["halo_reuse"] = False
    outermost = some("outside", OPERANDS, ())
    return chip(dimensions, (*inner, outermost), 8, settings=settings, idle_milliwatts=rng.choice([0.0, 1.0]))


def random_small_layer(rng: random.Random, most: int) -> Layer:
    """With strides, dilations and groups, of at most so many multiply-accumulates."""
    ranges = {"G": (1, 1, 2), "N": (1, 1, 2), "K": (1, 2, 3, 4), "C": (1, 2, 3, 4), "P": (1, 2, 3, 4, 5)}
    ranges |= {"Q": (1, 1, 2, 4), "R": (1, 2, 3), "S": (1, 1, 2, 3)}
    while True:
        extents = {loop: rng.choice(values) for loop, values in ranges.items()}
        pairs = [(rng.choice([1, 1, 2]), rng.choice([1, 2])) for _ in range(2)]
        layer = Layer("small layer", extents, *pairs, bits=dict.fromkeys(OPERANDS, 8))
        if 2 <= layer.macs <= most:
            return layer


def some_mappings(chip: Chip, layer: Layer, rng: random.Random) -> Iterator[Mapping]:
    """A sample of the mapper's space, valid or not: every spatial choice, with 60 shuffles of its factors at most, and
    for each 40 choices at most of where tiles end."""
    sites = list(
        itertools.product(
            *(_unrolled(dimension, dimension.unroll, dimension.size, layer) for dimension in chip.dimension)
        )
    )
    rng.shuffle(sites)
    for site in sites:
        spread = dict.fromkeys(LOOPS, 1)
        for loop, factor in itertools.chain.from_iterable(site):
            spread[loop] *= factor
        factors = [(loop, part) for loop in LOOPS for part in _primes(-(-layer.extents[loop] // spread[loop]))]
        orders = {tuple(rng.sample(factors, len(factors))) for _ in range(60)}
        cuts = range(len(factors) + 1)
        tiles = [itertools.combinations_with_replacement(cuts, len(chain) - 1) for chain in map(chip.chain, OPERANDS)]
        helds = list(itertools.product(*tiles))
        for order in orders:
            for ends in rng.sample(helds, min(len(helds), 40)):
                held = dict(zip(OPERANDS, ends, strict=True))
                for inside in {0, *held["I"][:1]}:
                    names = (dimension.name for dimension in chip.dimension)
                    yield Mapping(dict(zip(names, site, strict=True)), order, inside, held)


def every_mapping(chip: Chip, layer: Layer) -> Iterator[Mapping]:
    """All of the mapper's space, valid or not, each loop's temporal factors as primes: for very small layers."""
    names = [dimension.name for dimension in chip.dimension]
    for site in itertools.product(*(list(_unrolled(d, d.unroll, d.size, layer)) for d in chip.dimension)):
        spread = dict.fromkeys(LOOPS, 1)
        for loop, factor in itertools.chain.from_iterable(site):
            spread[loop] *= factor
        factors = [(loop, part) for loop in LOOPS for part in _primes(-(-layer.extents[loop] // spread[loop]))]
        cuts = range(len(factors) + 1)
        tiles = [itertools.combinations_with_replacement(cuts, len(chain) - 1) for chain in map(chip.chain, OPERANDS)]
        helds = [dict(zip(OPERANDS, ends, strict=True)) for ends in itertools.product(*tiles)]
        for order, held in itertools.product(sorted(set(itertools.permutations(factors))), helds):
            for inside in {0, *held["I"][:1]}:
                yield Mapping(dict(zip(names, site, strict=True)), order, inside, held)


def _unrolled(dimension: Dimension, loops, room: int, layer: Layer) -> Iterator[tuple]:
    if not loops:
        yield ()
        return
    for factor in range(1, min(room, layer.extents[loops[0]]) + 1):
        for rest in _unrolled(dimension, loops[1:], room // factor, layer):
            yield (((loops[0], factor),) if factor > 1 else ()) + rest


def _primes(number: int) -> Iterator[int]:
    divisor = 2
    while number > 1:
        while number % divisor == 0:
            yield divisor
            number //= divisor
        divisor += 1
