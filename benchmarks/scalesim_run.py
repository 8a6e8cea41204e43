"""Runs SCALE-Sim 3 on the layers it reads from standard input, for scalesim_peer.py; needs an environment of its own.

python -m venv /tmp/scalesim && /tmp/scalesim/bin/pip install scalesim==3.0.0 "numpy<2.3"
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from scalesim.layout_utils import layouts
from scalesim.scale_config import scale_config
from scalesim.single_layer_sim import single_layer_sim
from scalesim.topology_utils import topologies

CONFIG = """[general]
run_name = peer
[architecture_presets]
ArrayHeight: {rows}
ArrayWidth: {columns}
IfmapSramSzkB: {kilobytes}
FilterSramSzkB: {kilobytes}
OfmapSramSzkB: {kilobytes}
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Dataflow: {dataflow}
Bandwidth: {bandwidth}
ReadRequestBuffer: 64
WriteRequestBuffer: 64
[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 10
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 10
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
[run_presets]
InterfaceBandwidth: {interface}
UseRamulatorTrace: False
"""


FREE = {"kilobytes": 1024, "bandwidth": 10, "interface": "CALC"}
"""Memories that never make the array wait."""


def run(case: dict, folder: Path) -> dict:
    """Compute cycles, stall cycles and CPU seconds of one layer on one array."""
    (folder / "array.cfg").write_text(CONFIG.format(**FREE | case))
    row = ",".join(str(value) for value in ("layer", *case["layer"]))
    (folder / "topology.csv").write_text(f"header,\n{row},\n")
    (folder / "layout.csv").write_text("header,\n" + ",".join(["layer", *["1"] * 10]) + ",\n")
    config, topology, layout = scale_config(), topologies(), layouts()
    config.read_conf_file(str(folder / "array.cfg"))
    topology.load_arrays(str(folder / "topology.csv"))
    topology.topo_calc_hyperparams()
    layout.load_arrays(str(folder / "layout.csv"))
    start = time.process_time()
    simulator = single_layer_sim()
    simulator.set_params(layer_id=0, config_obj=config, topology_obj=topology, layout_obj=layout, verbose=False)
    simulator.run()
    simulator.calc_report_data()
    seconds = time.process_time() - start
    return {"cycles": int(simulator.total_cycles), "stalls": int(simulator.stall_cycles), "seconds": seconds}


if __name__ == "__main__":
    results = []
    with tempfile.TemporaryDirectory() as name, open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        for case in json.load(sys.stdin):
            results.append(run(case, Path(name)))
    json.dump(results, sys.stdout)
