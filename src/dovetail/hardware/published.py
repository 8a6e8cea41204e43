"""What was measured on chips, or published of them: small tables, each with the place where it was read.

Only figures that were seen in the source named, or are arithmetic on such, are here; where we chose or inferred
something, it says so. `row_stationary.as_measured` is ours as `Measured` has it, `as_analysed` as `Energies` has it;
benchmarks/chips.py sets all of it beside what our models say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from dovetail.hardware.layer import Layer
from dovetail.hardware.row_stationary_pass import Pass


class Convolution(NamedTuple):
    """A layer that something was published of: its shape (filters and channels of a group) and its nonzeros."""

    groups: int
    filters: int
    channels: int
    side: int
    """Rows, and columns, of the outputs."""
    taps: int
    """Rows, and columns, of the window."""
    stride: int
    inputs: float
    """The part of the inputs that is not zero."""
    outputs: float

    def layer(self, name: str, batch: int) -> Layer:
        g, k, c, p, r, stride, inputs, outputs = self
        extents = {"G": g, "N": batch, "K": k, "C": c, "P": p, "Q": p, "R": r, "S": r}
        return Layer(name, extents, (stride, stride), density={"I": inputs, "O": outputs})  # type: ignore[arg-type]


class Measured(NamedTuple):
    """Of a layer on Eyeriss; MB are 2^20 bytes, power is that of the chip without DRAM."""

    processing_ms: float
    total_ms: float
    buffer_mb: float
    dram_mb: float
    milliwatts: float


class Energies(NamedTuple):
    """Of a layer, in 1e9 multiplications' energies: three of the levels where it is spent."""

    arithmetic: float
    dram: float
    registers: float


@dataclass(frozen=True)
class Network:
    """Convolutions as Eyeriss ran them. `passes` are printed in the source only where that says so."""

    title: str
    source: str
    batch: int
    layers: dict[str, Convolution]
    passes: dict[str, Pass]
    measured: dict[str, Measured]
    total: Measured

    def layer(self, name: str) -> Layer:
        return self.layers[name].layer(name, self.batch)


EYERISS_ALEXNET = Network(
    "AlexNet's convolutions",
    "JSSC 2017, Table V, as transcribed by cucapra/fodlam (eyeriss-alexnet.csv)",
    4,
    {
        "conv1": Convolution(1, 96, 3, 55, 11, 4, 0.9999, 0.378),
        "conv2": Convolution(2, 128, 48, 27, 5, 1, 0.613, 0.169),
        "conv3": Convolution(1, 384, 256, 13, 3, 1, 0.275, 0.303),
        "conv4": Convolution(2, 192, 192, 13, 3, 1, 0.207, 0.304),
        "conv5": Convolution(2, 128, 192, 13, 3, 1, 0.224, 0.1),
    },
    {
        "conv1": Pass(96, 1, 7, 16, 1, 1, 2),
        "conv2": Pass(64, 1, 27, 16, 2, 1, 1),
        "conv3": Pass(64, 4, 13, 16, 4, 1, 4),
        "conv4": Pass(64, 4, 13, 16, 3, 2, 2),
        "conv5": Pass(64, 4, 13, 16, 3, 2, 2),
    },
    {
        "conv1": Measured(16.5, 20.9, 18.5, 5.0, 332),
        "conv2": Measured(39.2, 41.9, 77.6, 4.0, 288),
        "conv3": Measured(21.8, 23.6, 50.2, 3.0, 266),
        "conv4": Measured(16.0, 18.4, 37.4, 2.1, 235),
        "conv5": Measured(10.0, 10.5, 24.9, 1.3, 236),
    },
    Measured(103.5, 115.3, 208.5, 15.4, 278),
)
"""Passes: Table III, by the same transcription. Nonzeros of inputs: Table V; of outputs: Sparseloop's artefact for
MICRO 2022, table7_eyeriss_setup.

What conv3 was measured with is not what Table III has: 4 channels a pass move 64 + 63 times 384 x 13 x 13 x 4 sums,
62.9 MB for them alone. With the passes of conv4 all accesses are 50.5 MB; 50.2 is also just conv4's 37.4 times the
ratio of their multiplications."""

EYERISS_ACTIVE = {"conv1": 154, "conv2": 135, "conv3": 156, "conv4": 156, "conv5": 156, "total": 148}
"""Active elements, of Table V."""

EYERISS_VGG = Network(
    "VGG-16's convolutions",
    "JSSC 2017, Table VI, as transcribed by cucapra/fodlam (eyeriss-vgg16.csv)",
    3,
    {
        "conv1_1": Convolution(1, 64, 3, 224, 3, 1, 0.84, 0.523),
        "conv1_2": Convolution(1, 64, 64, 224, 3, 1, 0.523, 0.752),
        "conv2_1": Convolution(1, 128, 64, 112, 3, 1, 0.752, 0.613),
        "conv2_2": Convolution(1, 128, 128, 112, 3, 1, 0.613, 0.603),
        "conv3_1": Convolution(1, 256, 128, 56, 3, 1, 0.603, 0.419),
        "conv3_2": Convolution(1, 256, 256, 56, 3, 1, 0.419, 0.413),
        "conv3_3": Convolution(1, 256, 256, 56, 3, 1, 0.413, 0.357),
        "conv4_1": Convolution(1, 512, 256, 28, 3, 1, 0.357, 0.253),
        "conv4_2": Convolution(1, 512, 512, 28, 3, 1, 0.253, 0.146),
        "conv4_3": Convolution(1, 512, 512, 28, 3, 1, 0.146, 0.206),
        "conv5_1": Convolution(1, 512, 512, 14, 3, 1, 0.206, 0.126),
        "conv5_2": Convolution(1, 512, 512, 14, 3, 1, 0.126, 0.115),
        "conv5_3": Convolution(1, 512, 512, 14, 3, 1, 0.115, 0.115),
    },
    {
        "conv1_1": Pass(16, 1, 13, 4, 1, 1, 4),
        "conv1_2": Pass(16, 1, 13, 4, 1, 1, 4),
        "conv2_1": Pass(32, 1, 13, 8, 1, 1, 4),
        "conv2_2": Pass(32, 1, 13, 8, 1, 1, 4),
        "conv3_1": Pass(64, 1, 13, 16, 2, 1, 4),
        "conv3_2": Pass(64, 1, 13, 16, 2, 1, 4),
        "conv3_3": Pass(64, 1, 13, 16, 2, 1, 4),
        "conv4_1": Pass(64, 3, 7, 16, 2, 2, 4),
        "conv4_2": Pass(64, 3, 7, 16, 2, 2, 4),
        "conv4_3": Pass(64, 3, 7, 16, 2, 2, 4),
        "conv5_1": Pass(64, 3, 14, 16, 4, 2, 2),
        "conv5_2": Pass(64, 3, 14, 16, 4, 2, 2),
        "conv5_3": Pass(64, 3, 14, 16, 4, 2, 2),
    },
    {
        "conv1_1": Measured(38.0, 76.2, 112.5, 15.4, 247),
        "conv1_2": Measured(810.6, 910.3, 2402.8, 54.0, 218),
        "conv2_1": Measured(405.3, 470.3, 1201.4, 33.4, 242),
        "conv2_2": Measured(810.3, 894.3, 2402.3, 48.5, 231),
        "conv3_1": Measured(204.0, 241.1, 607.4, 20.2, 254),
        "conv3_2": Measured(408.1, 460.9, 1214.8, 32.2, 235),
        "conv3_3": Measured(408.1, 457.7, 1214.8, 30.8, 233),
        "conv4_1": Measured(105.1, 135.3, 321.3, 17.8, 278),
        "conv4_2": Measured(210.0, 254.8, 643.7, 20.6, 261),
        "conv4_3": Measured(210.0, 246.3, 643.7, 22.8, 240),
        "conv5_1": Measured(48.3, 54.3, 90.0, 6.3, 258),
        "conv5_2": Measured(48.5, 53.7, 90.0, 5.7, 236),
        "conv5_3": Measured(48.5, 53.7, 90.0, 5.6, 230),
    },
    Measured(3755.2, 4309.5, 11035.8, 321.1, 236),
)
"""The transcription is an optical reading; we put two of its slips right by the table's own totals and neighbours:
15.4 MB for 154 in conv1_1, 810.3 ms for 1110.3 in conv2_2. Outputs are as dense as the inputs of the next layer, those
of the last as its own.

Passes: not published. Many have the active elements (156 or 168) and, within 6 %, the buffer's accesses of Table VI;
these are the quickest of them, or within 2 % of the quickest and nearer in DRAM accesses. The table's latencies and
power are no part of that rule, but were in sight; slower passes, of fewer filters an element, explain its accesses as
well."""

EYERISS_NETWORKS = (EYERISS_ALEXNET, EYERISS_VGG)

EYERISS_ISCA_SOURCE = "ISCA 2016, Fig. 10, as read by stanford-mast/nn_dataflow (test_eyeriss_isca16)"
EYERISS_ISCA = {
    "conv1": Energies(1.69, 2.46, 6.75),
    "conv2": Energies(3.58, 2.27, 14.33),
    "conv3": Energies(2.39, 2.02, 9.57),
    "conv4": Energies(1.79, 1.57, 7.18),
    "conv5": Energies(1.20, 1.05, 4.78),
    "fc1": Energies(0.60, 7.78, 2.42),
    "fc2": Energies(0.27, 3.39, 1.07),
    "fc3": Energies(0.07, 0.84, 0.26),
}
"""AlexNet, batch 16, without zeros, on the 256 elements and 128 KB that the paper analysed before there was a chip."""

EYERISS_ISCA_LAYERS = {
    name: replace(convolution.layer(name, 16), density={}) for name, convolution in EYERISS_ALEXNET.layers.items()
} | {
    "fc1": Layer("fc1", {"N": 16, "C": 256, "K": 4096, "R": 6, "S": 6}),
    "fc2": Layer("fc2", {"N": 16, "C": 4096, "K": 4096}),
    "fc3": Layer("fc3", {"N": 16, "C": 4096, "K": 1000}),
}

EYERISS_PEERS = {"MAESTRO, shipped mapping": 1.5, "Timeloop's mapper": -6.8, "ZigZag, its example": 79.0}
"""Total processing latency by other models, in percent off the chip's; measured by us with those tools."""

ROW_STATIONARY_SOURCE = "ISCA 2016, abstract"
ROW_STATIONARY_GAIN = (1.4, 2.5)
"""Energy of other dataflows by row-stationary's, AlexNet's convolutions."""

TPU_SOURCE = "ISCA 2017, Tables 1 to 4, third-party transcription"
TPU_PEAK_TOPS = 92
TPU_RIDGE = 1350
"""Multiply-accumulates per byte of weights."""

TPU_REUSE = {"MLP0": 200, "LSTM0": 64, "CNN0": 2888}
"""Multiply-accumulates of each weight."""
TPU_WAITS_FOR_WEIGHTS = {name: reuse < TPU_RIDGE for name, reuse in TPU_REUSE.items()}

TPU_TOPS = {"MLP0": 12.3, "LSTM0": 3.7, "CNN0": 86.0}
TPU_COLUMNS = (
    "array active", "useful MACs", "unused MACs", "weight stall", "weight shift", "non-matrix", "input stalls",
)  # fmt: skip
TPU_PERCENT = {
    "MLP0": (12.7, 12.5, 0.3, 53.9, 15.9, 17.5, 6.1),
    "LSTM0": (8.2, 8.2, 0.0, 58.1, 15.8, 17.9, 5.1),
    "CNN0": (78.2, 78.2, 0.0, 0.0, 0.0, 21.8, 3.4),
}
"""Table 3: of the cycles. The input stalls are within the others; so are RAW stalls (3.3, 14.6, 3.5), which no model of
ours knows: they come from programs that are not published."""

TPU_MLP0_IPS = {200: 225_000, 250: 280_000}
"""Table 4: inferences a second by batch."""

DIANNAO_SOURCE = "ASPLOS 2014, abstract"
DIANNAO_GOPS, DIANNAO_MILLIWATTS = 452, 485

QIU_SOURCE = "Qiu et al., FPGA 2016, the project's page"
QIU_FPS, QIU_CONV_GOPS, QIU_GOPS, QIU_WATTS = 4.45, 187.8, 137.0, 9.63

BLOCK_CONVOLUTION_SOURCE = "Li et al., DATE 2018, the proceedings' page"
BLOCK_CONVOLUTION_FPS = 12.19

HOROWITZ_SOURCE = "Horowitz, ISSCC 2014, as in stillwater-sc/universal, generic_45nm.hpp"
HOROWITZ = {
    "int8 addition": 0.03, "int16 addition": 0.05, "int32 addition": 0.1, "int8 multiplication": 0.2,
    "int32 multiplication": 3.1,
    "float16 addition": 0.4, "float32 addition": 0.9, "float16 multiplication": 1.1, "float32 multiplication": 3.7,
    "64 bits of 8 KB SRAM": 10.0, "64 bits of DRAM (low)": 1300.0, "64 bits of DRAM (high)": 2600.0,
}  # fmt: skip
"""In pJ."""

HOROWITZ_BETWEEN = {"int16 multiplication": 1.0}
"""Of the same file, which says that it is an estimate."""

SCALESIM_SOURCE = "SCALE-Sim 3.0.0, Total Cycles at 32 x 32, run by us"
SCALESIM = {
    "conv1": (3025, 96, 363, 121_124), "conv2": (729, 256, 1200, 232_207), "conv3": (169, 384, 2304, 170_351),
    "conv4": (169, 384, 1728, 128_879), "conv5": (169, 256, 1728, 85_919),
}  # fmt: skip
"""AlexNet's convolutions (one group): output pixels E, filters M, window K = R S C; cycles, output-stationary."""
