"""`doctor` and `models` as commands."""

from __future__ import annotations

import json

import pytest
import torch

from preread import doctor
from preread.doctor import Finding


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_doctor_fails_where_a_finding_does(call, monkeypatch, tmp_path, state, code):
    monkeypatch.setattr(doctor, "CHECKS", {"disk": lambda: iter([Finding("disk", state, "full", "Free some.")])})
    got, out, _ = call("doctor", "--library", str(tmp_path / "none"), "--json")
    assert got == code
    assert json.loads(out.splitlines()[0]) == {"name": "disk", "state": state, "found": "full", "remedy": "Free some."}
    out = call("doctor", "--library", str(tmp_path / "none"))[1]
    assert out.startswith(f"{state:<4}  disk")
    assert "-> Free some." in out


@pytest.fixture
def shelf(tmp_path, monkeypatch, tiny_decoder):
    """A data directory with one of each kind."""
    from huggingface_hub import constants

    monkeypatch.setenv("PREREAD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for kind, note in (("compressors", "good"), ("readers", "far")):
        trained = tmp_path / "home" / kind / "mine"
        trained.mkdir(parents=True)
        (trained / "manifest.json").write_text(json.dumps({"base_name": "owner/other", "trained": {"note": note}}))
    converted = tmp_path / "home" / "cache" / "models" / "gguf-0"
    converted.mkdir(parents=True)
    (converted / "origin.json").write_text(json.dumps({"file": "small.gguf", "note": "from Q8_0"}))
    half = tmp_path / "home" / "cache" / "models" / "gguf-1.part"
    half.mkdir()
    snapshot = tmp_path / "hub" / "models--owner--model" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    return tmp_path


def test_models_list_shows_each_kind_and_no_half_made_one(call, shelf):
    rows = json.loads(call("models", "list", "--json")[1])
    held = {(row["kind"], row["name"]): row for row in rows}
    assert held["packaged", "default"]["path"] is None
    assert "not fetched" in held["packaged", "default"]["note"]
    assert held["converted", "small.gguf"]["path"] == str(shelf / "home" / "cache" / "models" / "gguf-0")
    assert held["compressor", "owner/other"]["note"] == "good"
    assert held["reader", "owner/other"]["note"] == "far"
    assert "incomplete" in held["hub", f"owner/model@{'0' * 40}"]["note"]
    assert not any("gguf-1" in str(row["path"]) for row in rows)
    out = call("models", "list")[1]
    assert all(row["name"] in out for row in rows)


def test_pull_says_where_and_its_failures_have_exit_codes(call, tmp_path, tiny_decoder, monkeypatch):
    folder = tmp_path / "decoder"
    decoder = tiny_decoder("llama")
    decoder.model.save_pretrained(folder)
    decoder.tokenizer.save_pretrained(folder)
    code, out, _ = call("models", "pull", str(folder), "--json")
    assert (code, json.loads(out)["folder"]) == (0, str(folder))
    assert str(folder) in call("models", "pull", str(folder))[1]
    (folder / "model.safetensors").unlink()
    code, out, err = call("models", "pull", str(folder))
    assert (code, out) == (1, "")
    assert "safetensors" in err
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, _, err = call("models", "pull", "no-such/model@main", "--json")
    assert code == 1
    assert json.loads(err.splitlines()[-1])["error"] == "UnknownModel"


def test_compare_writes_a_page_and_says_where(run, log, tmp_path):
    assert run("add", str(log), "--model", "tiny")[0] == 0
    out = tmp_path / "pages" / "one.html"
    arguments = ("compare", "What met storm number 35?", "--out", str(out), "--max-tokens", "3")
    code, said, err = run(*arguments)
    assert code == 0, err
    assert str(out) in said
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    result = json.loads(run(*arguments, "--json")[1])
    assert result["page"] == str(out)
    assert {column["method"] for column in result["columns"]} >= {"text"}
    code, _, err = run("compare", "Who?", "--out", str(out), "--collection", "none")
    assert (code, "preread add FILE" in err) == (2, True)


def test_convert_longlora_writes_an_extension_and_the_merged_decoder(call, tmp_path, tiny_decoder):
    decoder, base, theirs = tiny_decoder("llama"), tmp_path / "base", tmp_path / "theirs"
    decoder.model.save_pretrained(base)
    decoder.tokenizer.save_pretrained(base)
    theirs.mkdir()
    matrices = {}
    for name, layer in decoder.projections.items():
        matrices[f"base_model.model.{name}.lora_A.weight"] = torch.ones(2, layer.in_features)
        matrices[f"base_model.model.{name}.lora_B.weight"] = torch.ones(layer.out_features, 2)
    torch.save(matrices, theirs / "adapter_model.bin")
    state = decoder.model.state_dict()
    torch.save({name: state[name] for name in state if "norm" in name}, theirs / "trainable_params.bin")
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    said = {"r": 2, "lora_alpha": 4, "target_modules": targets, "base_model_name_or_path": str(base)}
    (theirs / "adapter_config.json").write_text(json.dumps(said))
    command = ("models", "convert-longlora", str(theirs), "--length", "8192", "--out", str(tmp_path / "ours"))
    code, out, err = call(*command, "--export", str(tmp_path / "plain"), "--json")
    assert (code, json.loads(out)["length"]) == (0, 8192)
    assert f"exported to {tmp_path / 'plain'}" in err
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["max_position_embeddings"] == 8192
    code, out, err = call(*command, "--json")
    assert (code, out) == (2, "")
    assert json.loads(err.splitlines()[-1])["error"] == "UsageError"
