"""What was published of Eyeriss, and the layers and passes that it was published for."""

from dovetail.hardware.layer import Layer
from dovetail.hardware.row_stationary_pass import Pass

ALEXNET = {
    # groups, filters, channels, outputs, taps, stride; nonzero inputs (JSSC'17 Table V) and outputs (Sparseloop's
    # artefact, table7_eyeriss_setup)
    "conv1": (1, 96, 3, 55, 11, 4, 0.9999, 0.378),
    "conv2": (2, 128, 48, 27, 5, 1, 0.613, 0.169),
    "conv3": (1, 384, 256, 13, 3, 1, 0.275, 0.303),
    "conv4": (2, 192, 192, 13, 3, 1, 0.207, 0.304),
    "conv5": (2, 128, 192, 13, 3, 1, 0.224, 0.1),
}

TABLE_3 = {
    "conv1": Pass(96, 1, 7, 16, 1, 1, 2),
    "conv2": Pass(64, 1, 27, 16, 2, 1, 1),
    "conv3": Pass(64, 4, 13, 16, 4, 1, 4),
    "conv4": Pass(64, 4, 13, 16, 3, 2, 2),
    "conv5": Pass(64, 4, 13, 16, 3, 2, 2),
}
"""JSSC'17 Table III, by cucapra/fodlam's transcription."""

MEASURED = TABLE_3 | {"conv3": TABLE_3["conv4"]}
"""What Table V was measured with, as far as one can tell: its 50.2 MB of buffer accesses in conv3 cannot come from
Table III, whose 4 channels a pass move 64 + 63 times 384 x 13 x 13 x 4 sums, 62.9 MB for them alone. With the passes of
conv4 all accesses are 50.5 MB; 50.2 is also just conv4's 37.4 times the ratio of their multiplications."""

TABLE_5 = {
    # processing ms, total ms, MB of the buffer, MB of DRAM, mW; MB are 2^20
    "conv1": (16.5, 20.9, 18.5, 5.0, 332),
    "conv2": (39.2, 41.9, 77.6, 4.0, 288),
    "conv3": (21.8, 23.6, 50.2, 3.0, 266),
    "conv4": (16.0, 18.4, 37.4, 2.1, 235),
    "conv5": (10.0, 10.5, 24.9, 1.3, 236),
}
TABLE_5_TOTAL = (103.5, 115.3, 208.5, 15.4, 278)

VGG = {
    # channels, filters, outputs, zero inputs; processing ms, total ms, MB of the buffer, MB of DRAM, mW: JSSC'17
    # Table VI, batch 3, by cucapra/fodlam (eyeriss-vgg16.csv, an optical reading). We put two of its slips right by
    # the table's own totals and neighbours: 15.4 MB for 154 in 1-1, 810.3 ms for 1110.3 in 2-2.
    "conv1_1": (3, 64, 224, 0.16, 38.0, 76.2, 112.5, 15.4, 247),
    "conv1_2": (64, 64, 224, 0.477, 810.6, 910.3, 2402.8, 54.0, 218),
    "conv2_1": (64, 128, 112, 0.248, 405.3, 470.3, 1201.4, 33.4, 242),
    "conv2_2": (128, 128, 112, 0.387, 810.3, 894.3, 2402.3, 48.5, 231),
    "conv3_1": (128, 256, 56, 0.397, 204.0, 241.1, 607.4, 20.2, 254),
    "conv3_2": (256, 256, 56, 0.581, 408.1, 460.9, 1214.8, 32.2, 235),
    "conv3_3": (256, 256, 56, 0.587, 408.1, 457.7, 1214.8, 30.8, 233),
    "conv4_1": (256, 512, 28, 0.643, 105.1, 135.3, 321.3, 17.8, 278),
    "conv4_2": (512, 512, 28, 0.747, 210.0, 254.8, 643.7, 20.6, 261),
    "conv4_3": (512, 512, 28, 0.854, 210.0, 246.3, 643.7, 22.8, 240),
    "conv5_1": (512, 512, 14, 0.794, 48.3, 54.3, 90.0, 6.3, 258),
    "conv5_2": (512, 512, 14, 0.874, 48.5, 53.7, 90.0, 5.7, 236),
    "conv5_3": (512, 512, 14, 0.885, 48.5, 53.7, 90.0, 5.6, 230),
}
TABLE_6_TOTAL = (3755.2, 4309.5, 11035.8, 321.1, 236)

VGG_PASSES = {
    "conv1": Pass(16, 1, 13, 4, 1, 1, 4),
    "conv2": Pass(32, 1, 13, 8, 1, 1, 4),
    "conv3": Pass(64, 1, 13, 16, 2, 1, 4),
    "conv4": Pass(64, 3, 7, 16, 2, 2, 4),
    "conv5": Pass(64, 3, 14, 16, 4, 2, 2),
}
"""Not published. Many passes have the active elements (156 or 168) and, within 6 %, the buffer's accesses of Table VI;
these are the quickest of them, or within 2 % of the quickest and nearer in DRAM accesses. The table's latencies and
power are no part of that rule, but were in sight; slower passes, of fewer filters an element, explain its accesses as
well."""

VGG_DRAM_UNEXPLAINED = {"conv1_2", "conv4_2"}
"""We count 82 MB in conv1_2: 54 MB would take sums of all 64 filters in the buffer, so of three rows only, with 144
elements active and not 156. And 27 MB in conv4_2: its 20.6 MB are less than those of conv4_3, which has the same shape
and fewer nonzeros."""

FIGURE_10 = {
    # arithmetic, DRAM, register files, in 1e9 energies of a multiplication: ISCA'16 Fig. 10, batch 16, 256 elements,
    # by stanford-mast/nn_dataflow (test_eyeriss_isca16)
    "conv1": (1.69, 2.46, 6.75),
    "conv2": (3.58, 2.27, 14.33),
    "conv3": (2.39, 2.02, 9.57),
    "conv4": (1.79, 1.57, 7.18),
    "conv5": (1.20, 1.05, 4.78),
    "fc1": (0.60, 7.78, 2.42),
    "fc2": (0.27, 3.39, 1.07),
    "fc3": (0.07, 0.84, 0.26),
}


def alexnet(batch: int, dense: bool = False) -> dict[str, Layer]:
    """AlexNet's convolutions."""
    return {
        name: Layer(
            name,
            {"G": g, "N": batch, "K": k, "C": c, "P": p, "Q": p, "R": r, "S": r},
            (stride, stride),
            density={} if dense else {"I": inputs, "O": outputs},
        )
        for name, (g, k, c, p, r, stride, inputs, outputs) in ALEXNET.items()
    }


def fully_connected(batch: int) -> dict[str, Layer]:
    """AlexNet's other layers."""
    sizes = {"fc1": (256, 4096, 6), "fc2": (4096, 4096, 1), "fc3": (4096, 1000, 1)}
    return {n: Layer(n, {"N": batch, "C": c, "K": k, "R": r, "S": r}) for n, (c, k, r) in sizes.items()}


def vgg(batch: int) -> dict[str, Layer]:
    """VGG-16's convolutions; the outputs of a layer are as dense as the inputs of the next, of the last as its own."""
    following = dict(zip(VGG, [*list(VGG)[1:], list(VGG)[-1]], strict=True))
    return {
        name: Layer(
            name,
            {"N": batch, "K": k, "C": c, "P": p, "Q": p, "R": 3, "S": 3},
            density={"I": 1 - zeros, "O": 1 - VGG[following[name]][3]},
        )
        for name, (c, k, p, zeros, *_) in VGG.items()
    }
