"""Counts equal plain loops, energy is their dot product with prices, and EIE's ladder comes out of it."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.errors import TargetError
from dovetail.hardware import EMBEDDED, EnergyModel, EnergyTable, Level, count, network_energy
from dovetail.workload import Operand, Operation, Workload

TABLE = EnergyTable.load("horowitz_45nm")
DENSE = EnergyModel(table=TABLE, skip_zero_weights=False)
densities = st.floats(0, 1)


def fully_connected(
    name: str, K: int, N: int, *, density: float = 1.0, input_density: float = 1.0, stored_bits: int | None = None
) -> Operation:
    return Operation(
        name,
        "matmul",
        {"B": 1, "M": 1, "N": N, "K": K},
        (
            Operand("input", "", (1, K), 32, input_density),
            Operand("weight", f"{name}.weight", (N, K), 32, density, stored_bits),
            Operand("output", "", (1, N), 32, 1.0),
        ),
        macs=N * K,
    )


def convolution(weight: NDArray[np.float64], side: int) -> Operation:
    K, C, R, S = weight.shape
    P, Q = side - R + 1, side - S + 1
    return Operation(
        "conv",
        "conv",
        {"N": 1, "K": K, "C": C, "P": P, "Q": Q, "R": R, "S": S, "groups": 1},
        (
            Operand("input", "", (1, C, side, side), 32, 1.0),
            Operand("weight", "conv.weight", weight.shape, 32, np.count_nonzero(weight) / weight.size),
            Operand("bias", "conv.bias", (K,), 32, 1.0),
            Operand("output", "", (1, K, P, Q), 32, 1.0),
        ),
        macs=K * C * P * Q * R * S,
        other_ops=K * P * Q,
    )


class TestCountsEqualLoops:
    @pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
    @pytest.mark.parametrize(("K", "C", "side", "R"), [(1, 1, 3, 3), (3, 2, 5, 3), (4, 3, 6, 1)])
    def test_of_a_sparse_convolution(self, density: float, K: int, C: int, side: int, R: int) -> None:
        rng = np.random.default_rng(K)
        weight = rng.standard_normal((K, C, R, R)) * (rng.random((K, C, R, R)) < density)
        P = side - R + 1
        multiplications = additions = 0
        for k in range(K):
            for _ in range(P * P):
                for c, r, s in np.ndindex(C, R, R):
                    if weight[k, c, r, s] != 0:
                        multiplications += 1
                        additions += 1
                additions += 1  # the bias
        (found,) = count(Workload((convolution(weight, side),)), EnergyModel(table=TABLE))
        assert (found.multiplications, found.additions) == (multiplications, additions)
        bits = {move.operand: move.bits for move in found.traffic}
        assert bits == {"weights": 32 * (weight.size + K), "inputs": 32 * C * side**2, "outputs": 32 * K * P * P}

    @pytest.mark.parametrize("zeros", [0, 3, 8])
    def test_of_a_matrix_vector_product_that_skips_zero_inputs(self, zeros: int) -> None:
        """With as many nonzeros in each column, the expectation is exact."""
        N, K, in_column = 6, 8, 2
        weight, vector = np.zeros((N, K)), np.ones(K)
        for column in range(K):
            weight[np.random.default_rng(column).choice(N, in_column, replace=False), column] = 1
        vector[:zeros] = 0
        macs = read = 0
        for column in range(K):
            if vector[column] != 0:
                for row in range(N):
                    read += 32
                    macs += weight[row, column] != 0
        operation = fully_connected("fc", K, N, density=in_column / N, input_density=1 - zeros / K)
        (found,) = count(Workload((operation,)), EnergyModel(table=TABLE, skip_zero_activations=True))
        assert found.multiplications == macs
        assert sum(move.bits for move in found.traffic if move.operand == "weights") == read


class TestEnergyIsADotProduct:
    def test_of_one_layer_by_hand(self) -> None:
        energy = network_energy(Workload((fully_connected("fc", 100, 10),)), DENSE)
        small = TABLE.sram(32 << 10, 1)
        assert energy.by("operand") == pytest.approx(
            {
                "arithmetic": 1000 * (3.7 + 0.9),
                "weights": 32_000 * small,
                "inputs": 3200 * small,
                "outputs": 320 * small,
            }
        )
        assert energy.total == pytest.approx(1000 * 4.6 + 35_520 * small)

    def test_of_one_layer_in_integers_by_hand(self) -> None:
        workload = Workload((fully_connected("fc", 100, 10),))
        integers = workload.with_integers({"fc.weight": 8}, {"fc.weight": 8})
        small = TABLE.sram(32 << 10, 1)
        assert network_energy(integers, DENSE).by("operand") == pytest.approx(
            {
                "arithmetic": 1000 * (0.2 + 0.1),
                "weights": 8_000 * small,
                "inputs": 800 * small,
                "outputs": 80 * small,
            }
        )

    @pytest.mark.parametrize("inputs", [{}, {"fc.weight": 8}])
    def test_signs_take_no_multiplications(self, inputs: dict[str, int]) -> None:
        workload = Workload((fully_connected("fc", 100, 10),)).with_integers({"fc.weight": 2}, inputs)
        assert network_energy(workload, DENSE).by("operand")["arithmetic"] == pytest.approx(100 if inputs else 900)

    def test_wide_weights_that_multiply_floats_stay_floats(self) -> None:
        workload = Workload((fully_connected("fc", 100, 10),))
        assert (
            network_energy(workload.with_integers({"fc.weight": 8}, {}), DENSE).by("operand")["arithmetic"]
            == (network_energy(workload, DENSE).by("operand")["arithmetic"])
        )

    @given(density=densities, stored=st.integers(0, 1 << 24))
    def test_every_view_sums_to_the_total_and_layers_add(self, density: float, stored: int) -> None:
        layers = (
            fully_connected("one", 400, 300, density=density, stored_bits=stored),
            fully_connected("two", 300, 100, density=density),
        )
        both = network_energy(Workload(layers), EnergyModel(table=TABLE))
        for view in ("layer", "level", "operand"):
            assert math.fsum(both.by(view).values()) == pytest.approx(both.total)
        apart = [
            network_energy(Workload((layer,), Workload(layers).constants), EnergyModel(table=TABLE)) for layer in layers
        ]
        assert both.total == pytest.approx(sum(energy.total for energy in apart))

    @given(one=densities, other=densities)
    def test_is_monotone_in_the_density_of_weights_and_of_inputs(self, one: float, other: float) -> None:
        model = EnergyModel(table=TABLE, skip_zero_activations=True)
        low, high = sorted((one, other))
        for name in ("density", "input_density"):
            sparse, dense = (
                network_energy(Workload((fully_connected("fc", 300, 50, **{name: value}),)), model).total
                for value in (low, high)
            )
            assert sparse <= dense * (1 + 1e-12)

    @given(one=st.integers(0, 1 << 26), other=st.integers(0, 1 << 26))
    def test_is_monotone_in_stored_bits(self, one: int, other: int) -> None:
        small, large = (
            network_energy(Workload((fully_connected("fc", 300, 50, stored_bits=bits),)), DENSE).total
            for bits in sorted((one, other))
        )
        assert small <= large

    def test_is_monotone_in_the_bits_of_the_arithmetic(self) -> None:
        workload = Workload((fully_connected("fc", 300, 50),))
        totals = [
            network_energy(workload, dataclasses.replace(DENSE, arithmetic=number)).total
            for number in ("int2", "int4", "int8", "int16", "int32")
        ]
        assert totals == sorted(totals)

    def test_arithmetic_that_skips_nothing_costs_the_same_at_any_density(self) -> None:
        dense, sparse = (
            network_energy(Workload((fully_connected("fc", 30, 5, density=density),)), DENSE).total
            for density in (1.0, 0.1)
        )
        assert dense == sparse


class TestWhereOperandsLive:
    @pytest.mark.parametrize(
        ("stored_bytes", "level"), [(32 << 10, "SRAM 32 KB"), ((32 << 10) + 1, "SRAM 1 MB"), ((1 << 20) + 1, "DRAM")]
    )
    def test_weights_lie_in_the_smallest_memory_that_holds_the_model(self, stored_bytes: int, level: str) -> None:
        operation = fully_connected("fc", 10, 10, stored_bits=8 * stored_bytes)
        (counts,) = count(Workload((operation,)), DENSE)
        assert {move.operand: move.level.name for move in counts.traffic} == {
            "weights": level,
            "inputs": "SRAM 32 KB",
            "outputs": "SRAM 32 KB",
        }

    def test_an_activation_function_moves_nothing_and_a_residual_addition_its_second_input(self) -> None:
        one, output = Operand("input", "", (1, 8), 32, 1.0), Operand("output", "", (1, 8), 32, 1.0)
        relu = Operation("relu", "activation", {"elements": 8}, (one, output), other_ops=8)
        add = Operation("", "elementwise", {"elements": 8}, (one, one, output), other_ops=8)
        first, second = count(Workload((relu, add)), DENSE)
        assert first.traffic == () and first.additions == 8 and first.multiplications == 0
        assert [(move.operand, move.bits) for move in second.traffic] == [("inputs", 256)]

    def test_the_last_memory_is_unlimited(self) -> None:
        with pytest.raises(TargetError, match="smallest memory to one of unlimited capacity"):
            EnergyModel(table=TABLE, levels=EMBEDDED[:2])


ALEXNET = {"fc6": (9216, 4096, 0.09, 0.351), "fc7": (4096, 4096, 0.09, 0.353), "fc8": (4096, 1000, 0.25, 0.375)}
INDEX_BITS, CODE_BITS, WORD_BITS = 4, 4, 32


def with_fillers(density: float) -> float:
    """Entries per nonzero when a 4-bit gap of at most 15 zeros needs a filler: 1 / (1 - (1 - density)^16)."""
    return 1 / (1 - (1 - density) ** 16)


class TestLadderOfEIE:
    """Han et al., ISCA 2016: DRAM to SRAM 120x, sparsity 10x, weight sharing 8x, zero activations 3x.

    The energy of fetching weights, by Table I of the paper, from the densities of AlexNet's fully connected layers. The
    rungs are theirs without the index; ours has its 4 bits and the fillers, so sparsity and sharing fall short.
    """

    on_chip = Level("SRAM", math.inf, 32 << 10)
    off_chip = Level("DRAM", math.inf, None)

    def fetching(self, level: Level, *, sparse: bool, value_bits: int, skip: bool = False) -> float:
        operations = []
        for name, (K, N, density, input_density) in ALEXNET.items():
            entries = N * K * density * with_fillers(density)
            bits = round(entries * (value_bits + INDEX_BITS)) if sparse else N * K * value_bits
            stored = fully_connected(
                name, K, N, density=density if sparse else 1.0, input_density=input_density, stored_bits=bits
            )
            operations.append(stored)
        model = EnergyModel(table=EnergyTable.load("eie_45nm"), levels=(level,), skip_zero_activations=skip)
        return network_energy(Workload(tuple(operations)), model).by("operand")["weights"]

    def test_every_rung_is_within_a_factor_of_two(self) -> None:
        steps = [
            self.fetching(self.off_chip, sparse=False, value_bits=WORD_BITS),
            self.fetching(self.on_chip, sparse=False, value_bits=WORD_BITS),
            self.fetching(self.on_chip, sparse=True, value_bits=WORD_BITS),
            self.fetching(self.on_chip, sparse=True, value_bits=CODE_BITS),
            self.fetching(self.on_chip, sparse=True, value_bits=CODE_BITS, skip=True),
        ]
        rungs = [before / after for before, after in itertools.pairwise(steps)]
        for found, published in zip(rungs, (120, 10, 8, 3), strict=True):
            assert published / 2 <= found <= published * 2, f"rungs {rungs}"
