"""Checkpoints in LongLoRA's published layout, against the authors' merge done by hand in plain torch."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from preread.core.errors import IntegrityError, UsageError
from preread.methods.longlora import published
from preread.methods.longlora.export import export_trained
from preread.methods.longlora.method import LongLora
from preread.models.fingerprint import fingerprint
from preread.models.loading import load
from preread.nn.hf import Decoder

WINDOW, LENGTH, R, ALPHA = 64, 250, 8, 16
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
IDS = torch.randint(3, 390, (2, 200), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def base(tiny_tokenizer):
    """Llama 2's kind: the head is not tied."""
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=WINDOW,
        initializer_range=0.1,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return Decoder(model, tiny_tokenizer, "tiny-llama-2", fingerprint(model, tiny_tokenizer))


def _pickles(base, folder, prefix="", rows=0, **config):
    """A random checkpoint as the authors' script leaves it, in float16; `rows` more than the base's in its table."""
    generator = torch.Generator().manual_seed(4)
    folder.mkdir(exist_ok=True)

    def drawn(*shape):
        return (torch.randn(shape, generator=generator) * 0.1).half()

    lora, whole = {}, {}
    for name, weight in base.model.state_dict().items():
        path = name.removesuffix(".weight")
        if path.rsplit(".", 1)[-1] in TARGETS:
            lora[f"base_model.model.{path}.lora_A.weight"] = drawn(R, weight.shape[1])
            lora[f"base_model.model.{path}.lora_B.weight"] = drawn(weight.shape[0], R)
        if "norm" in name:
            whole[prefix + name] = (1 + drawn(*weight.shape)).half()
        if "embed" in name:
            whole[prefix + name] = drawn(weight.shape[0] + rows, weight.shape[1])
    torch.save(lora, folder / "adapter_model.bin")
    torch.save(whole, folder / "trainable_params.bin")
    said = {"peft_type": "LORA", "r": R, "lora_alpha": ALPHA, "lora_dropout": 0.0, "target_modules": list(TARGETS)}
    said |= {"bias": "none", "modules_to_save": None, "base_model_name_or_path": "tiny-llama-2", **config}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return lora, whole


@torch.no_grad()
def _by_hand(base, lora, whole, prefix=""):
    """Logits of the merged model with positions divided by ceil(length / window), as the authors' scripts have it."""
    state = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    for name, weight in whole.items():
        own = name.removeprefix(prefix)
        state[own] = weight[: len(state[own])].float()
    for name in lora:
        if "lora_A" in name:
            a, b = lora[name].float(), lora[name.replace("lora_A", "lora_B")].float()
            own = name.removeprefix("base_model.model.").replace(".lora_A", "")
            state[own] += torch.einsum("or,ri->oi", b, a) * (ALPHA / R)
    config = LlamaConfig(
        **{**base.model.config.to_dict(), "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.load_state_dict(state)
    model.model.rotary_emb.inv_freq /= 4  # 250 positions are 4 windows of 64, rounded up
    return model(IDS).logits


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
@pytest.mark.parametrize("rows", [0, 1], ids=["same vocabulary", "a padding token more"])
def test_it_computes_what_the_authors_merge_does(base, tmp_path, prefix, rows):
    lora, whole = _pickles(base, tmp_path / "theirs", prefix, rows)
    found = published.convert(tmp_path / "theirs", tmp_path / "ours", base, LENGTH)
    assert (found.base, found.length, found.dropped) == ("tiny-llama-2", 256, rows)
    with LongLora(weights=tmp_path / "ours").attach(base) as handle, torch.no_grad():
        assert handle.decoder.window == 256
        ours = base.model(IDS).logits
    torch.testing.assert_close(ours, _by_hand(base, lora, whole, prefix), atol=1e-4, rtol=1e-4)
    assert not any(path.suffix == ".bin" for path in (tmp_path / "ours").iterdir())


def test_an_adapter_in_safetensors_is_the_same(base, tmp_path):
    lora, _ = _pickles(base, tmp_path / "theirs")
    first = published.convert(tmp_path / "theirs", tmp_path / "first", base, LENGTH)
    (tmp_path / "theirs" / "adapter_model.bin").unlink()
    save_file(lora, tmp_path / "theirs" / "adapter_model.safetensors")
    second = published.convert(tmp_path / "theirs", tmp_path / "second", base, LENGTH)
    for name in ("adapter_model.safetensors", "adapter_config.json", "manifest.json"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


class _Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("name", ["adapter_model.bin", "trainable_params.bin"])
@pytest.mark.parametrize("by", ["torch", "pickle"])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(base, tmp_path, monkeypatch, name, by):
    monkeypatch.chdir(tmp_path)
    _pickles(base, tmp_path / "theirs")
    if by == "torch":
        torch.save({"model.norm.weight": _Code()}, tmp_path / "theirs" / name)
    else:
        (tmp_path / "theirs" / name).write_bytes(pickle.dumps({"model.norm.weight": _Code()}))
    with pytest.raises(IntegrityError, match=name) as refused:
        published.convert(tmp_path / "theirs", tmp_path / "ours", base, LENGTH)
    assert "\n" not in str(refused.value)
    assert "weights_only" not in str(refused.value)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "ours").exists()


def test_a_tensor_that_claims_to_be_huge_is_refused_unread(base, tmp_path):
    _, whole = _pickles(base, tmp_path / "theirs")
    huge = torch.zeros(1).expand(2**40)  # 4 TB, of one number in the file
    torch.save({**whole, "model.norm.weight": huge}, tmp_path / "theirs" / "trainable_params.bin")
    assert (tmp_path / "theirs" / "trainable_params.bin").stat().st_size < 10**6
    with pytest.raises(IntegrityError, match="1099511627776"):
        published.convert(tmp_path / "theirs", tmp_path / "ours", base, LENGTH)


def _cut(folder):
    file = folder / "trainable_params.bin"
    file.write_bytes(file.read_bytes()[:-400])


def _resave(folder, change):
    whole = torch.load(folder / "trainable_params.bin", weights_only=True)
    change(whole)
    torch.save(whole, folder / "trainable_params.bin")


DAMAGE = {
    "cut": (_cut, "trainable_params.bin"),
    "nothing whole": (lambda f: (f / "trainable_params.bin").unlink(), "trainable_params.bin"),
    "no adapter": (lambda f: (f / "adapter_model.bin").unlink(), "adapter_model.safetensors"),
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json"),
    "a norm less": (lambda f: _resave(f, lambda w: w.pop("model.norm.weight")), "model.norm.weight"),
    "a weight more": (lambda f: _resave(f, lambda w: w.update({"lm_head.weight": torch.ones(2)})), "lm_head"),
    "numbers": (lambda f: _resave(f, lambda w: w.update({"model.norm.weight": 3})), "other things"),
    "a table too small": (
        lambda f: _resave(f, lambda w: w.update({"model.embed_tokens.weight": torch.ones(7, 48)})),
        r"\(7, 48\)",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_said_and_nothing_is_written(base, tmp_path, damage):
    _pickles(base, tmp_path / "theirs")
    harm, says = DAMAGE[damage]
    harm(tmp_path / "theirs")
    with pytest.raises(IntegrityError, match=says):
        published.convert(tmp_path / "theirs", tmp_path / "ours", base, LENGTH)
    assert not (tmp_path / "ours").exists()
    assert fingerprint(base.model, base.tokenizer) == base.fingerprint


def test_what_makes_no_sense_is_refused(base, tmp_path):
    _pickles(base, tmp_path / "theirs")
    with pytest.raises(UsageError, match="64 positions"):
        published.convert(tmp_path / "theirs", tmp_path / "ours", base, WINDOW)
    with pytest.raises(UsageError, match="empty"):
        published.convert(tmp_path / "theirs", tmp_path / "theirs", base, LENGTH)
    _pickles(base, tmp_path / "theirs", use_rslora=True)
    with pytest.raises(IntegrityError, match="use_rslora"):
        published.convert(tmp_path / "theirs", tmp_path / "ours", base, LENGTH)


def test_the_base_is_the_one_it_names(base, tmp_path):
    _pickles(base, tmp_path / "theirs", base_model_name_or_path="owner/llama")
    assert published.base_of(tmp_path / "theirs") == "owner/llama"
    with pytest.raises(IntegrityError):
        published.base_of(tmp_path)


def test_what_was_converted_is_exported_as_any_run(base, tmp_path):
    base.model.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    lora, whole = _pickles(base, tmp_path / "theirs")
    saved = load(f"{tmp_path / 'base'}:float32", device="cpu")
    published.convert(tmp_path / "theirs", tmp_path / "ours", saved, LENGTH)
    export_trained(tmp_path / "ours", tmp_path / "plain", f"{tmp_path / 'base'}:float32")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, _by_hand(base, lora, whole), atol=1e-4, rtol=1e-4)
