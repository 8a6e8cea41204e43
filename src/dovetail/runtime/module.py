"""An artefact as a torch module again, to fine-tune it or to compress it further."""

from __future__ import annotations

from torch import fx

from dovetail.runtime.artefact import Artefact
from dovetail.runtime.session import assemble
from dovetail.workload import read_onnx


def to_torch(artefact: Artefact) -> fx.GraphModule:
    """A module in eval mode with the artefact's weights as float32 parameters.

    They have the artefact's names, but for layers whose weight is called otherwise (`in_proj_weight`): then
    `module.meta["initialisers"]` has the artefact's name by the new one. Batch normalisations are the per-channel
    scales and shifts that `freeze` made of them. Raises ArtefactError on an inconsistent artefact, and ModelError on an
    operator that the ONNX reader does not know.
    """
    return read_onnx(assemble(artefact)).eval()
