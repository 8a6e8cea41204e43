"""Handing an artefact on as a standard ONNX file. Needs no PyTorch."""

from __future__ import annotations

from pathlib import Path

from dovetail.errors import ArtefactError
from dovetail.runtime.artefact import Artefact
from dovetail.runtime.files import write_atomically
from dovetail.runtime.qdq import to_qdq
from dovetail.runtime.session import assemble


def export_onnx(artefact: Artefact, path: str | Path, *, integers: bool | None = None) -> None:
    """Write the artefact as a standard ONNX file, at once or not at all.

    integers: False: all is float32, and any ONNX runtime gives the session's answers. True: layers whose weights and
        inputs are quantised to at most 8 bits are written as integers (runtime/qdq.py), which runtimes execute as such;
        an activation halfway between two codes may then get the other one. None: integers if there is such a layer.

    Raises ArtefactError if the artefact is inconsistent or larger than an ONNX file may be (2 GiB), if it has no layer
    for the integers asked for, and if the file cannot be written.
    """
    model, layers = (assemble(artefact), []) if integers is False else to_qdq(artefact)
    if integers and not layers:
        raise ArtefactError(
            "No layer of the artefact can be exported in integers: its weight and its input should both be quantised "
            "to at most 8 bits. Quantise activations too, or export in floats."
        )
    write_atomically(Path(path), model.SerializeToString(deterministic=True))
