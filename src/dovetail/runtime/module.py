"""An artefact as a torch module again, to fine-tune it or to compress it further."""

from __future__ import annotations

from torch import nn

from dovetail.runtime.artefact import Artefact
from dovetail.runtime.session import assemble
from dovetail.workload import read_onnx


def to_torch(artefact: Artefact) -> nn.Module:
    """A module in eval mode with the artefact's weights as float32 parameters, under the same names.

    Batch normalisations are the per-channel scales and shifts that `freeze` made of them. Raises ArtefactError on an
    inconsistent artefact and ModelError on an operator that the ONNX reader does not know.
    """
    module: nn.Module = read_onnx(assemble(artefact))
    return module.eval()
