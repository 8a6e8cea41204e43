"""Trains a small network: `python run_small.py WEIGHTS CHECKPOINT EPOCHS`. Run by tests that kill or multiply it."""

import sys
from pathlib import Path

import torch
from torch import nn

from dovetail.data import load_dataset
from dovetail.train import Training, save_state, train


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.0), nn.Linear(144, 10))


def run(weights: Path, checkpoint: Path, epochs: int) -> None:
    torch.set_num_threads(1)
    model = small_network()
    training = Training(epochs=epochs, images=512, batch_size=64, optimizer="adamw")
    train(model, load_dataset("fashion_mnist_sample"), training, seed=5, checkpoint=checkpoint)
    save_state(weights, dict(model.state_dict()))


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
