"""Networks that others made, in eight bits by one command, without labels: are they integers, do they answer the same?

    python benchmarks/foreign_int8.py [CASE ...] [--list]

NETWORK/none: `dovetail compress MODEL.onnx --recipe int8` without any data. NETWORK/pictures: with 32 pictures that
were not made for the network. Then `dovetail export`, and ONNX Runtime runs the file as it was and the exported one on
64 other pictures: squared error relative to the outputs' energy and to their variance (1 is what a constant gives), the
fraction of positions with the same answer (the larger of two scores, or a score above one half), the layers that are
integers and the nodes that ONNX Runtime executes so, time for one picture in paired runs.

Records results/foreign_int8.json. Needs rapidocr (pip install --no-deps rapidocr) and DOVETAIL_DATA.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime import InferenceSession, SessionOptions
from paired import paired
from records import Options, run_cases

from dovetail.data import load_dataset
from dovetail.runtime import Artefact, to_qdq

RESULTS = Path(__file__).parent / "results" / "foreign_int8.json"
GIVEN, COMPARED = 32, 64
NETWORKS = {
    "rapidocr_cls": ("ch_ppocr_mobile_v2.0_cls_mobile.onnx", (3, 48, 192)),
    "rapidocr_det": ("PP-OCRv6_det_small.onnx", (3, 320, 320)),
}
CASES = [f"{network}/{data}" for network in NETWORKS for data in ("none", "pictures")]
FLOATS = ("Conv", "FusedConv", "Gemm", "MatMul", "ConvTranspose")
INTEGER = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantize")


def run(case: str, options: Options) -> dict[str, Any]:
    network, data = case.split("/")
    file, shape = NETWORKS[network]
    spec = importlib.util.find_spec("rapidocr")
    assert spec is not None and spec.origin is not None, "pip install --no-deps rapidocr"
    original = Path(spec.origin).parent / "models" / file
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asked = ["--recipe", "int8", "--input-shape", "x".join(map(str, shape)), "--target", "onnxruntime"]
        if data == "pictures":
            asked += ["--images", str(some_pictures(folder / "pictures"))]
        started = time.time()
        dovetail("compress", str(original), *asked, "--out", str(folder))
        seconds = time.time() - started
        dovetail("export", str(folder / "model.dvt"), "--integers", "--out", str(folder / "int8.onnx"))
        artefact = Artefact.load(folder / "model.dvt")
        sessions = [session(path, options.threads, folder / "fused.onnx") for path in (original, folder / "int8.onnx")]
        executed = Counter(node.op_type for node in onnx.load(folder / "fused.onnx").graph.node)
        before, after = (lambda x, s=s: s.run(None, {s.get_inputs()[0].name: x})[0] for s in sessions)
        dataset = load_dataset(str(Path(os.environ["DOVETAIL_DATA"], "imagenet-sample")), shape)
        pairs = [(before(x), after(x)) for x in (x.numpy() for x, _ in dataset.batches("test", 1, limit=COMPARED))]
        image = dataset.example().numpy()
        return {
            **compared(*(np.concatenate(column).astype(np.float64) for column in zip(*pairs, strict=True))),
            "layers": sum(len(tensor.shape) > 1 for tensor in artefact.tensors.values()),
            "layers_in_integers": len(to_qdq(artefact)[1]),
            "executed_in_integers": sum(count for kind, count in executed.items() if kind.startswith(INTEGER)),
            "executed_in_floats": sum(executed[kind] for kind in FLOATS),
            "file_bytes": (folder / "model.dvt").stat().st_size,
            "exported_bytes": (folder / "int8.onnx").stat().st_size,
            "original_bytes": original.stat().st_size,
            "seconds_to_compress": round(seconds),
            "speed": paired(lambda: before(image), lambda: after(image), pairs=50),
        }  # fmt: skip


def some_pictures(folder: Path) -> Path:
    """A folder of links to the first pictures of the sample, which the comparison does not use."""
    folder.mkdir()
    for picture in sorted(Path(os.environ["DOVETAIL_DATA"], "imagenet-sample").glob("*.jpg"))[:GIVEN]:
        (folder / picture.name).symlink_to(picture)
    return folder


def dovetail(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dovetail", *arguments], check=True, stdout=subprocess.DEVNULL)


def session(path: Path, threads: int, optimised: Path) -> InferenceSession:
    options = SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.optimized_model_filepath = str(optimised)
    return InferenceSession(path, options, providers=["CPUExecutionProvider"])


def compared(expected: np.ndarray, found: np.ndarray) -> dict[str, float]:
    wrong = np.square(found - expected).sum()
    answers = [y.argmax(1) if y.shape[1] > 1 else y > 0.5 for y in (expected, found)]
    return {
        "relative_error": float(wrong / np.square(expected).sum()),
        "error_to_variance": float(wrong / np.square(expected - expected.mean(0)).sum()),
        "agreement": float(np.mean(answers[0] == answers[1])),
    }


if __name__ == "__main__":
    run_cases(RESULTS, __doc__, CASES, run)
