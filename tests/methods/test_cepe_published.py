"""Conversion of checkpoints in CEPE's published layout: what is refused, said and kept."""

from __future__ import annotations

import json
import os
import pickle
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from preread import cli
from preread.core.errors import FingerprintMismatch, IntegrityError, UsageError
from preread.core.types import Passage
from preread.methods.cepe import published
from preread.methods.cepe.method import Cepe
from preread.models.fingerprint import fingerprint
from preread.models.loading import load


@pytest.fixture
def base(tiny_llama_2):
    return tiny_llama_2()


def test_what_was_not_trained_is_said(base, publish_cepe, tmp_path):
    publish_cepe(base, tmp_path / "theirs")
    published.convert(tmp_path / "theirs", tmp_path / "ours", base, states=60)
    with Cepe(weights=tmp_path / "ours").attach(base) as handle:
        memories = list(handle.encode(Passage("doc", n, tuple(range(5, 35)), n, n + 1, "?", "", 0) for n in range(3)))
        assert handle.caveats(memories[:2]) == ("reader: a published CEPE checkpoint (theirs)",)
        assert "90 states at once (trained: 60)" in handle.caveats(memories)[1]


class _Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("by", ["torch", "pickle"])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(base, publish_cepe, tmp_path, monkeypatch, by):
    monkeypatch.chdir(tmp_path)
    publish_cepe(base, tmp_path / "theirs", layout="pickles")
    file = tmp_path / "theirs" / "pytorch_model-00002-of-00002.bin"
    if by == "torch":
        torch.save({"model.norm.weight": _Code()}, file)
    else:
        file.write_bytes(pickle.dumps({"model.norm.weight": _Code()}))
    with pytest.raises(IntegrityError, match=file.name) as refused:
        published.convert(tmp_path / "theirs", tmp_path / "ours", base)
    assert "weights_only" not in str(refused.value)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "ours").exists()


def _resave(folder, change):
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def _cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-400])


NORM, CROSS, TABLE = "encoder.norm.weight", "model.layers.1.cross_attn.q_proj.weight", "encoder.embed_tokens.weight"
DAMAGE = {
    "cut": (_cut, "SafetensorError"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "0 bytes of weights"),
    "a norm less": (lambda f: _resave(f, lambda t: t.pop(NORM)), NORM),
    "no base": (lambda f: _resave(f, lambda t: t.pop("lm_head.weight")), "lm_head"),
    "a weight more": (lambda f: _resave(f, lambda t: t.update({"score.weight": torch.ones(2)})), "score"),
    "one row for all": (lambda f: _resave(f, lambda t: t.update({CROSS: t[CROSS][:1].clone()})), r"\(1, 48\)"),
    "no number": (lambda f: _resave(f, lambda t: t[CROSS][0].fill_(float("nan"))), "finite"),
    "counted": (lambda f: _resave(f, lambda t: t.update({NORM: t[NORM].long()})), "finite"),
    "a table too small": (lambda f: _resave(f, lambda t: t.update({TABLE: t[TABLE][:9].clone()})), r"\(9, 32\)"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_said_and_nothing_is_written(base, publish_cepe, tmp_path, damage):
    publish_cepe(base, tmp_path / "theirs")
    harm, says = DAMAGE[damage]
    harm(tmp_path / "theirs")
    with pytest.raises(IntegrityError, match=says) as refused:
        published.convert(tmp_path / "theirs", tmp_path / "ours", base)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "ours").exists()
    assert fingerprint(base.model, base.tokenizer) == base.fingerprint


OTHERS = {
    "a state a layer": {"num_cross_attn_hidden_states": 3},
    "the decoder itself": {"encoder_is_model": True},
    "looks back alone": {"encoder_config": {"is_decoder": True}},
    "stretched": {"encoder_config": {"rope_scaling": {"type": "linear", "factor": 2.0}}},
    "no cross-attention": {"num_cross_attn_layers": 0},
    "too many": {"num_cross_attn_layers": 4},
    "too few tokens": {"encoder_config": {"vocab_size": 300}},
}
SENSELESS = {
    "no heads": ({"num_attention_heads": 0}, "heads=0"),
    "more layers than memory": ({"num_hidden_layers": 10**12}, "bytes of weights"),
    "wider than the files": ({"hidden_size": 2**20}, "bytes of weights"),
}


@pytest.mark.parametrize("senseless", SENSELESS)
def test_a_shape_that_is_none_is_damage_and_takes_no_memory(base, publish_cepe, tmp_path, senseless):
    publish_cepe(base, tmp_path / "theirs")
    changed, says = SENSELESS[senseless]
    config = tmp_path / "theirs" / "config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps({**said, "encoder_config": {**said["encoder_config"], **changed}}))
    with pytest.raises(IntegrityError, match=says):
        published.convert(tmp_path / "theirs", tmp_path / "ours", base)


@pytest.mark.parametrize("other", OTHERS)
def test_what_would_compute_something_else_is_refused(base, publish_cepe, tmp_path, other):
    publish_cepe(base, tmp_path / "theirs")
    said = json.loads((tmp_path / "theirs" / "config.json").read_text())
    changed = OTHERS[other]
    if "encoder_config" in changed:
        changed = {"encoder_config": {**said["encoder_config"], **changed["encoder_config"]}}
    (tmp_path / "theirs" / "config.json").write_text(json.dumps({**said, **changed}))
    with pytest.raises(IntegrityError, match="none of theirs"):
        published.convert(tmp_path / "theirs", tmp_path / "ours", base)
    assert not (tmp_path / "ours").exists()


def test_another_base_is_refused_and_rounding_is_none(base, tiny_llama_2, publish_cepe, tmp_path):
    publish_cepe(base, tmp_path / "theirs")
    with pytest.raises(FingerprintMismatch, match="tiny-llama-2"):
        published.convert(tmp_path / "theirs", tmp_path / "ours", tiny_llama_2(seed=2))
    with torch.no_grad():
        for parameter in base.model.parameters():
            parameter.mul_(1 + 2**-9)  # what bfloat16 has not
    assert published.convert(tmp_path / "theirs", tmp_path / "ours", base).layers == 3
    with pytest.raises(UsageError, match="empty"):
        published.convert(tmp_path / "theirs", tmp_path / "ours", base)


def test_the_command_writes_a_reader(base, publish_cepe, tmp_path, monkeypatch, capsys):
    base.model.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    publish_cepe(base, tmp_path / "theirs")
    command = ["models", "convert-cepe", str(tmp_path / "theirs"), "--out", str(tmp_path / "ours")]
    monkeypatch.setattr(sys, "argv", ["preread", *command, "--model", f"{tmp_path / 'base'}:float32", "--json"])
    for code, error in ((0, ""), (2, "UsageError")):  # the second time it is there
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert (ended.value.code or 0, error in said.err) == (code, True)
    with Cepe(weights=tmp_path / "ours").attach(load(f"{tmp_path / 'base'}:float32", device="cpu")) as handle:
        assert handle.reader.trained.states == 4096
