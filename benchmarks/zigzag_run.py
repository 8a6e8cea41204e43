"""ZigZag's side of benchmarks/zigzag_peer.py, in its own environment: what it maps and what it counts, as JSON.

    pip install zigzag-dse==3.9.1 six        # Python 3.11 or later; needs nothing of dovetail
    python zigzag_run.py ARCHITECTURE NETWORK [--limit N] [--mappings FILE] > result.json

ARCHITECTURE and NETWORK are among those that it ships, NETWORK may also be a JSON file of layers as ZigZag takes them.
Of layers of one shape the first is taken. For each: its loops, the mapping of least energy times delay that ZigZag
finds with its default effort, what its model counts for it, and the CPU seconds the search took. Orders of loops are
from the inside out; `held` says how many of them the tile of each memory but the outermost covers.

`exact` is what its model counts for the same loop nest where every factor is whole and the input's padding is fetched:
its search unrolls fractions of a loop (256 channels over 14 rows are 13.47 wide), and cuts the input to its unpadded
size. With --mappings nothing is searched: the mappings in the file ({layer name: {spatial, temporal, held}}) are judged
by its model.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
import zigzag
from zigzag.cost_model.cost_model import CostModelEvaluation
from zigzag.datatypes import LayerDim, OADimension
from zigzag.hardware.architecture.accelerator import Accelerator
from zigzag.mapping.data_movement import DataDirection, DataMoveAttr
from zigzag.mapping.spatial_mapping import MappingSingleOADim, SpatialMapping
from zigzag.mapping.spatial_mapping_internal import SpatialMappingInternal
from zigzag.mapping.temporal_mapping import TemporalMapping, TemporalMappingType
from zigzag.stages.evaluation.cost_model_evaluation import CostModelStage
from zigzag.stages.main import MainStage
from zigzag.stages.mapping.spatial_mapping_conversion import SpatialMappingConversionStage
from zigzag.stages.mapping.spatial_mapping_generation import SpatialMappingGeneratorStage
from zigzag.stages.mapping.temporal_mapping_generator_stage import TemporalMappingGeneratorStage
from zigzag.stages.parser.accelerator_parser import AcceleratorParserStage
from zigzag.stages.parser.onnx_model_parser import ONNXModelParserStage
from zigzag.stages.parser.workload_parser import WorkloadParserStage
from zigzag.stages.results.reduce_stages import MinimalEDPStage
from zigzag.stages.workload_iterator import WorkloadStage
from zigzag.workload.layer_attributes import LayerDimSizes, LayerPadding
from zigzag.workload.layer_node import LayerNode

INPUTS = Path(zigzag.__file__).parent / "inputs"
FREE = [{"name": "default", "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"}}]
"""ZigZag chooses what is unrolled, not its examples' files."""

Record = dict[str, Any]


class DistinctStage(WorkloadStage):
    """The layers with multiplications, one of each shape: searched and timed, or judged under given mappings."""

    limit = sys.maxsize
    mappings: Record | None = None

    def run(self) -> Iterator[tuple[Record, None]]:
        seen: set[str] = set()
        for layer in self.workload.topological_sort():
            if not isinstance(layer, LayerNode) or layer.type.lower() not in ("conv", "qlinearconv", "gemm", "matmul"):
                continue
            shape = json.dumps(
                [sorted((str(dim), size) for dim, size in layer.layer_dim_sizes.items()), *shifts(layer)]
            )
            if shape in seen or len(seen) == self.limit:
                continue
            seen.add(shape)
            if self.mappings is None:
                yield self.searched(layer), None
            elif layer.name in self.mappings:
                given = self.mappings[layer.name]
                loops = levels(given)
                judged = evaluate(self.accelerator, layer, given["spatial"], loops)
                yield described(layer) | {"exact": counted(judged)}, None

    def searched(self, layer: LayerNode) -> Record:
        started = time.process_time()
        stages = self.list_of_callables
        ((found, _),) = stages[0](stages[1:], layer=layer, accelerator=self.accelerator, **self.kwargs).run()
        seconds = time.process_time() - started
        loops = {str(operand): found for operand, found in found.temporal_mapping.mapping_dic_stationary.items()}
        temporal = [(str(dim), int(size)) for level in loops["O"] for dim, size in level]
        spatial = whole_spatial(found.layer, temporal)
        exact = evaluate(self.accelerator, layer, spatial, loops)
        return described(layer) | {
            "spatial": spatial,
            "temporal": temporal,
            "held": {op: [sum(map(len, parts[: i + 1])) for i in range(len(parts) - 1)] for op, parts in loops.items()},
            "cpu_seconds": seconds,
            "shipped": counted(found),
            "exact": counted(exact),
        }


def shifts(layer: LayerNode) -> list[str]:
    """How the input's indices follow from those of outputs and taps."""
    return [str(relation) for relation in layer.dimension_relations]


def described(layer: LayerNode) -> Record:
    return {
        "name": layer.name,
        "loops": {str(dim): size for dim, size in layer.layer_dim_sizes.items()},
        "relations": shifts(layer),
        "bits": {str(operand): bits for operand, bits in layer.operand_precision.data.items()},
    }


def whole_spatial(layer: LayerNode, temporal: list[tuple[str, int]]) -> dict[str, list[tuple[str, int]]]:
    """Factors of each dimension of the array, the widest of a loop as wide as the temporal factors leave to do."""
    given = {str(dim): {str(loop): int(factor) for loop, factor in pairs.items()} for dim, pairs in
             layer.spatial_mapping.items()}  # fmt: skip
    for loop in {loop for pairs in given.values() for loop in pairs}:
        dims = [dim for dim, pairs in given.items() if loop in pairs]
        widest = max(dims, key=lambda dim: given[dim][loop])
        done = math.prod(size for name, size in temporal if name == loop)
        done *= math.prod(given[dim][loop] for dim in dims if dim != widest)
        given[widest][loop] = math.ceil(layer.layer_dim_sizes[LayerDim(loop)] / done)
    return {dim: list(pairs.items()) for dim, pairs in given.items()}


def levels(given: Record) -> dict[str, list[list[tuple[LayerDim, int]]]]:
    """One order of loops, cut for each operand into what its memories hold."""
    order = [(LayerDim(loop), size) for loop, size in given["temporal"]]
    cuts = {operand: [0, *held, len(order)] for operand, held in given["held"].items()}
    return {op: [order[a:b] for a, b in itertools.pairwise(ends)] for op, ends in cuts.items()}


def evaluate(
    accelerator: Accelerator, layer: LayerNode, spatial: dict[str, list[tuple[str, int]]], loops: Record
) -> CostModelEvaluation:
    """ZigZag's model of one loop nest with whole factors, whose layer is as large as their product."""
    unrolled = SpatialMapping(
        {
            OADimension(dim): MappingSingleOADim({LayerDim(loop): factor for loop, factor in pairs})
            for dim, pairs in spatial.items()
        }
    )
    sizes = dict.fromkeys(map(str, layer.layer_dim_sizes.layer_dims), 1)
    for loop, size in [*(pair for level in next(iter(loops.values())) for pair in level),
                       *(pair for pairs in spatial.values() for pair in pairs)]:  # fmt: skip
        sizes[str(loop)] *= size
    attributes = layer.extract_node_attr()
    attributes.layer_dim_sizes = LayerDimSizes({LayerDim(loop): size for loop, size in sizes.items()})
    attributes.padding, attributes.pr_layer_dim_sizes = LayerPadding.empty(), None
    mapping = layer.extract_mapping_attr()
    unrolled.initialize_oa_dims(accelerator.operational_array.dimension_sizes)
    mapping.spatial_mapping = unrolled
    node = LayerNode(layer.id, layer.name, attributes, mapping)
    conversion = SpatialMappingConversionStage([CostModelStage], accelerator=accelerator, layer=node)
    internal = SpatialMappingInternal(conversion.generate_mapping_per_mem_lvl(unrolled), node)
    order = {operand: loops[str(operand)] for operand in node.layer_operands}
    return CostModelEvaluation(
        accelerator=accelerator,
        layer=node,
        spatial_mapping=internal,
        spatial_mapping_int=internal,
        temporal_mapping=TemporalMapping(order, node, TemporalMappingType.UNEVEN),
    )


def counted(evaluation: CostModelEvaluation) -> Record:
    """What the model counts: elements moved, the words that it prices, and the elements that those carry."""
    accesses = []
    for operand, moves in evaluation.mapping.unit_mem_data_movement.items():
        for level, move in enumerate(moves):
            memory = evaluation.accelerator.get_memory_level(
                evaluation.memory_operand_links.layer_to_mem_op(operand), level
            )
            amount = move.get_attribute(DataMoveAttr.DATA_TRANS_AMOUNT_PER_PERIOD)
            periods = move.get_attribute(DataMoveAttr.DATA_TRANS_PERIOD_COUNT)
            units = evaluation.mapping.spatial_mapping.unit_count[operand][level + 1]
            parts = {
                "elements": move.get_attribute(DataMoveAttr.DATA_ELEM_MOVE_COUNT),
                "bits_each": move.get_attribute(DataMoveAttr.DATA_PRECISION),
                "words": evaluation.memory_word_access[operand][level],
            }
            for way in DataDirection:
                entry = {name: part.get(way) for name, part in parts.items()}
                entry["in_words"] = amount.get(way) * periods.get(way) * units if entry["bits_each"] else 0
                if entry["elements"] or entry["in_words"]:
                    accesses.append({"memory": memory.name, "operand": str(operand), "way": way.name.lower()} | entry)
    return {
        "accesses": accesses,
        "picojoules": evaluation.energy_total,
        "mac_picojoules": evaluation.mac_energy,
        "cycles": evaluation.latency_total2,
        "computing_cycles": evaluation.ideal_temporal_cycle,
    }


class NoticingLoader(yaml.SafeLoader):
    """Keeps the last of two equal keys, as the plain one does, and remembers that there were two."""

    repeated: tuple[str, ...] = ()

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        type(self).repeated += tuple(sorted({key for key in keys if keys.count(key) > 1}))
        return super().construct_mapping(node, deep)


def run(architecture: Path, network: str) -> list[Record]:
    own = network.endswith(".json")
    searching = DistinctStage.mappings is None
    stages = [
        WorkloadParserStage if own else ONNXModelParserStage, AcceleratorParserStage, DistinctStage,
        *([MinimalEDPStage, SpatialMappingGeneratorStage, MinimalEDPStage, TemporalMappingGeneratorStage]
          if searching else []), CostModelStage,
    ]  # fmt: skip
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as mapping:
        yaml.safe_dump(FREE, mapping)
        mapping.flush()
        workload = json.loads(Path(network).read_text()) if own else str(INPUTS / "workload" / f"{network}.onnx")
        options = {"loma_lpf_limit": 6, "loma_show_progress_bar": False, "nb_mappings_generated": 3}
        options |= {"temporal_mapping_type": TemporalMappingType.UNEVEN, "mapping": mapping.name}
        main = MainStage(stages, workload=workload, accelerator=str(architecture), **options)
        return [record for record, _ in main.run()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architecture", help=f"of {', '.join(sorted(f.stem for f in (INPUTS / 'hardware').iterdir()))}")
    parser.add_argument("network", help=f"of {', '.join(sorted(f.stem for f in (INPUTS / 'workload').iterdir()))}")
    parser.add_argument("--limit", type=int, default=sys.maxsize, help="only so many layers")
    parser.add_argument("--mappings", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    DistinctStage.limit = arguments.limit
    DistinctStage.mappings = json.loads(arguments.mappings.read_text()) if arguments.mappings else None
    file = INPUTS / "hardware" / f"{arguments.architecture}.yaml"
    hardware = yaml.load(file.read_text(), NoticingLoader)
    layers = run(file, arguments.network)
    json.dump({"architecture": hardware, "repeated_keys": NoticingLoader.repeated, "layers": layers}, sys.stdout)


if __name__ == "__main__":
    main()
