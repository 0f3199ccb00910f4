"""Rows that several processes hold together are trained as one process trains them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("shared_rows.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
HEADS, KINDS, BATCHES = ("4/2", "3/1", "6/2"), ("s2", "full"), ("rows", "packed", "late")
CASES = [" ".join(case) for case in product(HEADS, KINDS, BATCHES)]
PROCESSES = (2, 3)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each process of one, of two and of three found, by `(processes, rank)`."""
    results = {}
    for processes in (1, *PROCESSES):
        folder = tmp_path_factory.mktemp(f"processes-{processes}")
        commands = [[sys.executable, str(SCRIPT), str(rank), str(processes), str(folder)] for rank in range(processes)]
        running = [
            subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) for command in commands
        ]
        for rank, process in enumerate(running):
            _, said = process.communicate(timeout=200)
            assert process.returncode == 0, said
            results[processes, rank] = torch.load(folder / f"{rank}-of-{processes}.pt", weights_only=True)
    return results


def _furthest(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, "kept"])
def test_losses_and_gradients_are_those_of_one_process(found, case):
    alone = found[1, 0][case]
    assert all(gradient.abs().max() > 0 for gradient in alone.values())
    for processes in PROCESSES:
        for rank in range(processes):
            assert _furthest(found[processes, rank][case], alone) < 1e-6


@pytest.mark.slow
def test_half_precision_takes_part_where_nothing_is_judged(found):
    alone = found[1, 0]["half, late"]
    for rank in range(2):
        assert abs(float(found[2, rank]["half, late"]["loss"] - alone["loss"])) < 0.02


@pytest.mark.slow
def test_positions_counted_by_each_process_for_itself_are_noticed(found):
    assert _furthest(found[2, 0]["misplaced"], found[1, 0]["misplaced"]) > 1e-3


def _train(recipe, data, out, *launcher, changes=()):
    command = [sys.executable, *launcher, "-m", "preread", "train", "longlora", str(recipe), "--data", str(data)]
    options = ["--out", str(out), "--yes", "--export", str(out / "model"), *changes]
    return subprocess.run(
        [*command, *options], env=ENVIRONMENT, capture_output=True, text=True, timeout=200, check=False
    )


TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.fixture
def recipe(tiny_decoder, tmp_path):
    made = tiny_decoder()
    made.model.config.max_position_embeddings = 64
    made.model.save_pretrained(tmp_path / "decoder")
    made.tokenizer.save_pretrained(tmp_path / "decoder")
    lines = [json.dumps({"text": f"On day {i} the keeper saw {i * 7} ships. " * 30}) for i in range(4)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    (tmp_path / "other.jsonl").write_text(json.dumps({"text": "In winter the lamp burned all night. " * 60}))
    (tmp_path / "recipe.yaml").write_text(
        f"""
method: longlora
stage: extend
model: {tmp_path / "decoder"}:float32
settings: {{length: 256, extension: {{lora: {{rank: 2, dropout: 0.0}}}}}}
batches: packed
data: [text.jsonl]
held_out: [other.jsonl]
held_out_batches: 2
window: 201
training: {{steps: 4, learning_rate: 0.01, save_every: 2}}
"""
    )
    return tmp_path / "recipe.yaml"


@pytest.mark.slow
def test_the_command_under_a_launcher_trains_what_one_process_does(recipe, tmp_path):
    alone = _train(recipe, tmp_path, tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    shared = ("--set", "training.sequence_parallel=2")
    together = _train(recipe, tmp_path, tmp_path / "both", *TWO, changes=shared)
    assert together.returncode == 0, together.stderr
    one, two = (load_file(tmp_path / name / "trained/adapter_model.safetensors") for name in ("alone", "both"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-4, rtol=1e-3)
    logs = [
        [json.loads(line)["lm"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("alone", "both")
    ]
    assert logs[0] == pytest.approx(logs[1], abs=1e-4)
    manifests = [json.loads((tmp_path / n / "trained/manifest.json").read_text()) for n in ("alone", "both")]
    judged = [manifest["training"]["held_out"]["lm"] for manifest in manifests]
    assert judged[0] == pytest.approx(judged[1], abs=1e-4)
    assert (tmp_path / "both/model/config.json").exists()
    again = _train(recipe, tmp_path, tmp_path / "both", *TWO, changes=shared)
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_processes_that_do_not_divide_into_groups_are_refused(recipe, tmp_path):
    refused = _train(recipe, tmp_path, tmp_path / "out", changes=("--set", "training.sequence_parallel=2"))
    assert refused.returncode == 2
    assert "torchrun --nproc_per_node 2" in refused.stderr
    assert "Traceback" not in refused.stderr
