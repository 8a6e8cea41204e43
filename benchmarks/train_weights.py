"""Train the weights that are shipped in the package, and measure them from the files.

    python benchmarks/train_weights.py [NETWORK ...] [--work out/train_weights] [--threads 1]

Each network is trained on the first 55,000 images of its training set; the test set is looked at once, at the end,
through the float16 file. A killed run goes on from its last epoch when started again. The same seed, threads and
machine give the same files. Results go to benchmarks/results/train_weights.json.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from rich.progress import Progress
from safetensors.torch import save

from dovetail.data import load_dataset
from dovetail.machine import processor
from dovetail.networks import NETWORKS, load_model
from dovetail.networks.load import WEIGHTS
from dovetail.train import Training, score, train

SEED = 2017
RESULTS = Path(__file__).parent / "results" / "train_weights.json"

TRAININGS = {
    "lenet_300_100": Training(epochs=60, learning_rate=0.05, warmup_epochs=1, weight_decay=1e-4, batch_size=64),
    "lenet5": Training(epochs=25, learning_rate=0.02, warmup_epochs=1, weight_decay=5e-4, batch_size=64),
    "resnet8_fashion": Training(
        epochs=30, learning_rate=0.1, warmup_epochs=1, weight_decay=5e-4, batch_size=128, precision="bfloat16"
    ),
}


def write_float16(module: torch.nn.Module, path: Path) -> None:
    """Write the tensors of `module`, rounded to float16, in one move."""
    tensors = {name: tensor.half().contiguous() for name, tensor in module.state_dict().items() if tensor.ndim}
    part = path.with_suffix(".part")
    part.write_bytes(save(tensors))
    os.replace(part, path)


def train_one(name: str, work: Path) -> dict[str, object]:
    """Train one network, write its file, and measure the file on the whole test set."""
    network, training = NETWORKS[name], TRAININGS[name]
    assert network.dataset is not None and network.weights is not None
    dataset = load_dataset(network.dataset)
    torch.manual_seed(SEED)
    module = network.build()
    with Progress() as progress:
        history = train(
            module, dataset, training, seed=SEED, checkpoint=work / f"{name}.safetensors", progress=progress
        )
    path = WEIGHTS / network.weights
    write_float16(module, path)
    return {
        "file": network.weights,
        "bytes": path.stat().st_size,
        "data": network.dataset,
        "test_accuracy": score(load_model(name).module, dataset),
        "test_accuracy_before_rounding": score(module, dataset),
        "training_seconds": round(sum(result.seconds for result in history), 1),
        "training": asdict(training),
        "seed": SEED,
        "threads": torch.get_num_threads(),
        "machine": processor(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Train what is named, or everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(TRAININGS))
    parser.add_argument("--work", type=Path, default=Path("out/train_weights"), help="folder of the checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if unknown := set(arguments.networks) - set(TRAININGS):
        parser.error(f"there is no training for {', '.join(sorted(unknown))}: choose from {', '.join(TRAININGS)}")
    torch.set_num_threads(arguments.threads)
    for name in arguments.networks or TRAININGS:
        result = train_one(name, arguments.work)
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        results[name] = result
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
        print(f"{name}: {result['test_accuracy']:.2%} in {result['training_seconds']} s of training")


if __name__ == "__main__":
    main()
