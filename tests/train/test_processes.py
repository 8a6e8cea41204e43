"""Training in other processes: killed, and several at once."""

import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from dovetail.train import load_state

SCRIPT = Path(__file__).with_name("run_small.py")
run = runpy.run_path(str(SCRIPT))["run"]


def test_a_killed_run_ends_with_the_same_weights(tmp_path):
    uninterrupted, killed, checkpoint = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    run(uninterrupted, tmp_path / "unused", 40)
    process = subprocess.Popen([sys.executable, SCRIPT, killed, checkpoint, "40"])
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.3))
    process.kill()
    assert process.wait() == -signal.SIGKILL and 1 <= len(load_state(checkpoint)["history"]) < 40
    run(killed, checkpoint, 40)
    a, b = load_state(uninterrupted), load_state(killed)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_two_processes_train_the_same_network_as_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2", "--num_machines=1"]
    options = [
        "--mixed_precision=no",
        "--dynamo_backend=no",
        "--main_process_port=0",
        "--num_cpu_threads_per_process=1",
    ]
    subprocess.run([*launch, *options, SCRIPT, two, tmp_path / "c2", "2"], check=True, timeout=120)
    run(one, tmp_path / "c1", 2)
    a, b = load_state(one), load_state(two)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)
    c1, c2 = (load_state(tmp_path / name)["history"][-1] for name in ("c1", "c2"))
    assert abs(c1["loss"] - c2["loss"]) < 1e-4
