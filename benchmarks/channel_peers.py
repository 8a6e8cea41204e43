"""The option-A shortcut of the CIFAR ResNets, which breaks Torch-Pruning's graph and not ours.

    pip install torch-pruning
    python benchmarks/channel_peers.py

Removes half the channels of a ResNet-20 of random weights with both, and runs what is left. This is why dovetail has a
dependency engine of its own (`methods/channels`): a channel that is padded in by position has no layer of its own.
"""

import importlib

import torch

from dovetail.methods.channels import dependencies, remove
from dovetail.networks.resnet_cifar import CifarResNet

EXAMPLE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def torch_pruning() -> str:
    """What becomes of the network under Torch-Pruning."""
    peer = importlib.import_module("torch_pruning")
    model = CifarResNet(3).eval()
    try:
        pruner = peer.pruner.BasePruner(
            model, EXAMPLE, importance=peer.importance.MagnitudeImportance(), pruning_ratio=0.5,
            ignored_layers=[model.linear],
        )  # fmt: skip
        pruner.step()
        model(EXAMPLE)
    except Exception as error:  # noqa: BLE001 (whatever it raises is the result)
        return f"fails: {type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return f"runs, {sum(p.numel() for p in model.parameters())} parameters"


def ours() -> str:
    """What becomes of it here."""
    model = CifarResNet(3).eval()
    found = dependencies(model, EXAMPLE)
    pruned = remove(found, {name: range(group.size // 2) for name, group in found.groups.items()})
    pruned(EXAMPLE)
    return f"runs, {sum(p.numel() for p in pruned.parameters())} parameters"


if __name__ == "__main__":
    print("Torch-Pruning:", torch_pruning())
    print("dovetail:     ", ours())
