"""What was measured on chips, or published of them: small tables, each with the place where it was read.

Only figures that were seen in the source named, or are arithmetic on such, are here. Rows are in the order of the
source; what the columns are is said beside each table.
"""

from __future__ import annotations

EYERISS_SOURCE = "JSSC 2017, Table V, as transcribed by cucapra/fodlam (eyeriss-alexnet.csv)"
EYERISS_COLUMNS = ("processing, ms", "power, mW", "GLB, MB", "DRAM, MB", "active, elements")
EYERISS = {
    "conv1": (16.5, 332, 18.5, 5.0, 154),
    "conv2": (39.2, 288, 77.6, 4.0, 135),
    "conv3": (21.8, 266, 50.2, 3.0, 156),
    "conv4": (16.0, 235, 37.4, 2.1, 156),
    "conv5": (10.0, 236, 24.9, 1.3, 156),
    "total": (103.5, 278, 208.5, 15.4, 148),
}
"""AlexNet's convolutions, batch 4, 200 MHz, with the zeros below."""

EYERISS_PASSES = {
    "conv1": (96, 1, 7, 16, 1, 1, 2), "conv2": (64, 1, 27, 16, 2, 1, 1), "conv3": (64, 4, 13, 16, 4, 1, 4),
    "conv4": (64, 4, 13, 16, 3, 2, 2), "conv5": (64, 4, 13, 16, 3, 2, 2),
}  # fmt: skip
"""m, n, e, p, q, r, t of JSSC 2017, Table III: how the chip ran each layer."""

EYERISS_INPUT_ZEROS = {"conv1": 0.0001, "conv2": 0.387, "conv3": 0.725, "conv4": 0.793, "conv5": 0.776}
"""The part of each layer's inputs that is zero, of the same table."""

EYERISS_OUTPUT_DENSITY = {"conv1": 0.378, "conv2": 0.169, "conv3": 0.303, "conv4": 0.304, "conv5": 0.1}
"""Of each layer's outputs: Sparseloop's artefact for MICRO 2022, table7_eyeriss_setup."""

EYERISS_VGG_SOURCE = "JSSC 2017, Table VI, as transcribed by cucapra/fodlam (eyeriss-vgg16.csv)"
EYERISS_VGG = {
    "conv1_1": (3, 64, 224, 0.16, 38.0, 247), "conv1_2": (64, 64, 224, 0.477, 810.6, 218),
    "conv2_1": (64, 128, 112, 0.248, 405.3, 242), "conv2_2": (128, 128, 112, 0.387, 810.3, 231),
    "conv3_1": (128, 256, 56, 0.397, 204.0, 254), "conv3_2": (256, 256, 56, 0.581, 408.1, 235),
    "conv3_3": (256, 256, 56, 0.587, 408.1, 233), "conv4_1": (256, 512, 28, 0.643, 105.1, 278),
    "conv4_2": (512, 512, 28, 0.747, 210.0, 261), "conv4_3": (512, 512, 28, 0.854, 210.0, 240),
    "conv5_1": (512, 512, 14, 0.794, 48.3, 258), "conv5_2": (512, 512, 14, 0.874, 48.5, 236),
    "conv5_3": (512, 512, 14, 0.885, 48.5, 230),
}  # fmt: skip
"""VGG-16, batch 3: channels, filters, side of the outputs, zeros of the inputs; processing ms, mW. An optical reading,
whose 1110.3 ms in conv2_2 is put right by the table's own total."""

EYERISS_VGG_PASSES = {
    "conv1": (16, 1, 13, 4, 1, 1, 4), "conv2": (32, 1, 13, 8, 1, 1, 4), "conv3": (64, 1, 13, 16, 2, 1, 4),
    "conv4": (64, 3, 7, 16, 2, 2, 4), "conv5": (64, 3, 14, 16, 4, 2, 2),
}  # fmt: skip
"""Not published: passes that have the table's active elements and accesses of buffer and DRAM. Its times and power were
not looked at."""

EYERISS_ISCA_SOURCE = "ISCA 2016, Fig. 10, as read by stanford-mast/nn_dataflow (test_eyeriss_isca16)"
EYERISS_ISCA = {
    "conv1": (1.69, 2.46, 6.75),
    "conv2": (3.58, 2.27, 14.33),
    "conv3": (2.39, 2.02, 9.57),
    "conv4": (1.79, 1.57, 7.18),
    "conv5": (1.20, 1.05, 4.78),
    "fc1": (0.60, 7.78, 2.42),
    "fc2": (0.27, 3.39, 1.07),
    "fc3": (0.07, 0.84, 0.26),
}
"""Energy of arithmetic, DRAM and register files in 1e9 MACs' energies, batch 16."""

EYERISS_PEERS = {"MAESTRO, shipped mapping": 1.5, "Timeloop's mapper": -6.8, "ZigZag, its example": 79.0}
"""Total processing latency by other models, in percent off the chip's; measured by us with those tools."""

ROW_STATIONARY_GAIN = (1.4, 2.5)
"""Energy of other dataflows by row-stationary's, AlexNet's convolutions: ISCA 2016, abstract."""

TPU_SOURCE = "ISCA 2017, Tables 1 to 4, third-party transcription"
TPU_PEAK_TOPS = 92
TPU_RIDGE = 1350
"""Multiply-accumulates per byte of weights."""

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


def scalesim_cycles(dataflow: str, pixels: int, filters: int, window: int, rows: int, columns: int) -> int:
    """Its Total Cycles in closed form, which we found to be exact on 65 layers."""

    def tiles(a: int, b: int) -> int:
        return -(-a // rows) * -(-b // columns)

    return {
        "os": tiles(pixels, filters) * (window + rows + columns - 2) - 1,
        "ws": tiles(window, filters) * (pixels + 2 * rows + columns - 2) - 1,
        "is": tiles(window, pixels) * (filters + 2 * rows + columns - 2) - 1,
    }[dataflow]
