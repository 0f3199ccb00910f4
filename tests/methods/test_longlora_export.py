"""An exported decoder is an ordinary one: bare transformers compute with it what the attached extension does."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, LlamaConfig, Qwen3Config

from preread.core.errors import FingerprintMismatch, IntegrityError, ResourceError, UnsupportedModel, UsageError
from preread.methods.longlora.export import export, export_trained
from preread.methods.longlora.extension import Extension, ExtensionConfig
from preread.models.fingerprint import fingerprint
from preread.models.loading import load
from preread.models.quantised import quantise
from preread.nn.hf import Decoder
from preread.nn.lora import LoraConfig
from preread.nn.rope import RULES, Linear, LongRope, Ntk, Yarn, stretched

WINDOW = 64
LORA = LoraConfig(rank=4, dropout=0.0, targets=("q_proj", "o_proj", "up_proj"))
CONFIGS = {
    "lora+": ExtensionConfig(LORA),
    "lora on embeddings": ExtensionConfig(LORA, embeddings="lora"),
    "norms": ExtensionConfig(None, embeddings="frozen"),
    "everything": ExtensionConfig(everything=True),
}
IDS = torch.randint(3, 390, (2, 3 * WINDOW), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def make(tiny_tokenizer):
    """`make(kind, dtype)`: a random decoder whose window is short, `tied`, `untied` or `qwen3`."""

    def decoder(kind="tied", dtype=torch.float32):
        common = {
            "vocab_size": len(tiny_tokenizer),
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "max_position_embeddings": WINDOW,
            "initializer_range": 0.1,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        config = LlamaConfig(**common, tie_word_embeddings=kind == "tied")
        if kind == "qwen3":
            config = Qwen3Config(**common, head_dim=16, tie_word_embeddings=True)
        if kind == "gemma":
            config = Gemma2Config(**common, head_dim=16, pad_token_id=0)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        return Decoder(model, tiny_tokenizer, f"tiny-{kind}", fingerprint(model, tiny_tokenizer))

    return decoder


def trained(decoder, config):
    """An extension as if training had moved every number of it."""
    extension = Extension(config, decoder).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    for parameter in extension.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return extension


@contextmanager
def in_force(decoder, extension, rule):
    with stretched(decoder, rule) as view:
        extension.attach()
        yield view
        extension.detach()


@torch.no_grad()
def logits(model):
    return model(IDS).logits


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", ["tied", "untied", "qwen3", "gemma"])
def test_bare_transformers_compute_what_the_attached_extension_does(make, tmp_path, kind, name):
    decoder = make(kind)
    before, extension = logits(decoder.model), trained(decoder, CONFIGS[name])
    with in_force(decoder, extension, Yarn(4)) as view:
        expected = logits(view.model)
    export(decoder, extension, Yarn(4), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype is torch.float32
    assert model.config.max_position_embeddings == 4 * WINDOW
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == (kind != "untied")
    assert (expected - before).abs().max() > 0.1
    torch.testing.assert_close(logits(model), expected, atol=2e-5, rtol=1e-4)
    assert torch.equal(logits(decoder.model), before)
    assert fingerprint(decoder.model, decoder.tokenizer) == decoder.fingerprint
    assert decoder.tokenizer.model_max_length == 2048
    assert AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == 4 * WINDOW


@pytest.mark.parametrize(
    "rule", [Linear(4), Ntk(4), Yarn(4), LongRope(4), Linear(1)], ids=lambda rule: f"{rule.name}{rule.factor}"
)
def test_every_rule_is_in_the_config(make, tmp_path, rule):
    decoder = make()
    extension = trained(decoder, CONFIGS["norms"])
    with in_force(decoder, extension, rule) as view:
        expected = logits(view.model)
    found = load(str(export(decoder, extension, rule, tmp_path / "out")), dtype="float32", device="cpu")
    assert found.window == rule.factor * WINDOW
    torch.testing.assert_close(logits(found.model), expected, atol=2e-5, rtol=1e-4)
    # A short prompt too is turned as in training: the rule does not switch with the prompt's length.
    with in_force(decoder, extension, rule) as view, torch.no_grad():
        torch.testing.assert_close(found.model(IDS[:, :9]).logits, view.model(IDS[:, :9]).logits, atol=2e-5, rtol=1e-4)


def test_in_bfloat16_the_weights_are_rounded_once(make, tmp_path):
    decoder = make("tied", torch.bfloat16)
    extension = trained(decoder, CONFIGS["lora+"])
    bare = logits(decoder.model)
    with in_force(decoder, extension, Yarn(4)) as view:
        expected = logits(view.model)
    model = AutoModelForCausalLM.from_pretrained(export(decoder, extension, Yarn(4), tmp_path / "out"))
    assert model.dtype is torch.bfloat16
    assert (logits(model) - expected).norm() < 0.05 * (expected - bare).norm()
    for name, weight in extension.masters.named().items():
        assert torch.equal(model.get_parameter(name), weight.bfloat16())


def test_it_writes_the_text_that_the_attached_one_writes(make, tmp_path):
    decoder = make()
    extension = trained(decoder, CONFIGS["lora+"])
    export(decoder, extension, Yarn(4), tmp_path / "out")
    model, tokenizer = (kind.from_pretrained(tmp_path / "out") for kind in (AutoModelForCausalLM, AutoTokenizer))
    prompt = tokenizer("The keeper of the lighthouse wrote " * 12, return_tensors="pt")
    assert prompt["input_ids"].shape[1] > WINDOW
    settings = {"max_new_tokens": 12, "do_sample": True, "pad_token_id": 0}  # drawn, for greedy text of it is one token
    torch.manual_seed(0)
    written = model.generate(**prompt, **settings)
    with in_force(decoder, extension, Yarn(4)) as view:
        torch.manual_seed(0)
        assert torch.equal(view.model.generate(**prompt, **settings), written)
    assert tokenizer.decode(written[0, prompt["input_ids"].shape[1] :]).strip()
    assert model.generation_config.eos_token_id == decoder.model.generation_config.eos_token_id


def test_the_manifest_says_of_what_it_was_made(make, tmp_path):
    decoder = make()
    extension = trained(decoder, CONFIGS["norms"])
    export(decoder, extension, Yarn(4), tmp_path / "out", {"steps": 3})
    made = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (made["base"], made["extension"]) == (decoder.fingerprint, extension.hash)
    assert (made["rule"], made["length"], made["training"]) == ("yarn", 256, {"steps": 3})
    assert "256 positions" in (tmp_path / "out" / "README.md").read_text()


def _state(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_earlier_export_is_replaced_and_nothing_else_is(make, tmp_path):
    decoder, out = make(), tmp_path / "out"
    first, second = (trained(decoder, CONFIGS[name]) for name in ("norms", "lora+"))
    out.mkdir()
    export(decoder, first, Yarn(4), out)
    before = _state(out)
    export(decoder, second, Yarn(4), out)
    assert _state(out)["model.safetensors"] != before["model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "thesis.md").write_text("ten years")
    for place in (other, other / "thesis.md"):
        with pytest.raises(UsageError, match="something else"):
            export(decoder, second, Yarn(4), place)
    assert _state(other) == {"thesis.md": b"ten years"}


def test_what_fails_or_is_killed_leaves_the_earlier_export(make, tmp_path, monkeypatch):
    decoder, out = make(), tmp_path / "out"
    extension = trained(decoder, CONFIGS["norms"])
    export(decoder, extension, Yarn(4), out)
    before = _state(out)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(decoder.tokenizer), "save_pretrained", full)
        with pytest.raises(ResourceError, match="No space left"):
            export(decoder, extension, Yarn(4), out)
        assert _state(out) == before
        out.rename(tmp_path / ".out.preread-old")  # killed between the two names, and then the disk is full
        with pytest.raises(ResourceError):
            export(decoder, extension, Yarn(4), out)
        assert _state(out) == before
    shutil.copytree(out, tmp_path / ".out.preread-old")  # killed before the old one was removed
    export(decoder, extension, Yarn(4), out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_cannot_be_merged_is_said(make, tmp_path):
    decoder = make("tied", torch.bfloat16)
    extension = trained(decoder, CONFIGS["norms"])
    with stretched(decoder, Yarn(4)), pytest.raises(UnsupportedModel, match="plain RoPE"):
        export(decoder, extension, Yarn(4), tmp_path / "out")
    quantise(decoder.model, "int8")
    with pytest.raises(UsageError, match="quantised"):
        export(decoder, extension, Yarn(4), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def run(make, tmp_path):
    """The folder of a finished run, and the decoder that it was for, saved beside it."""
    decoder, base, weights = make("tied", torch.bfloat16), tmp_path / "base", tmp_path / "trained"
    decoder.model.save_pretrained(base)
    decoder.tokenizer.save_pretrained(base)
    trained(decoder, CONFIGS["lora+"]).save(weights)
    made = {"base": load(str(base), device="cpu").fingerprint, "rule": "linear", "length": 4 * WINDOW}
    made["training"] = {"recipe": {"model": str(base)}}
    (weights / "manifest.json").write_text(json.dumps(made))
    return weights, base


def test_a_finished_run_is_exported_from_its_manifest(run, tmp_path):
    weights, base = run
    decoder = load(str(base), device="cpu")
    with in_force(decoder, Extension.load(weights, decoder), RULES["linear"](4)) as view:
        expected = logits(view.model)
    found = load(str(export_trained(weights, tmp_path / "out")), device="cpu")
    assert (logits(found.model) - expected).norm() < 0.05 * expected.norm()
    assert found.window == 4 * WINDOW


def test_a_run_over_quantised_weights_is_merged_onto_those_in_bfloat16(run, tmp_path):
    weights, base = run
    made = json.loads((weights / "manifest.json").read_text())
    made |= {"base": load(f"{base}:int8", device="cpu").fingerprint}
    made["training"]["recipe"]["model"] += ":int8"
    (weights / "manifest.json").write_text(json.dumps(made))
    export_trained(weights, tmp_path / "out")
    assert load(str(tmp_path / "out"), device="cpu").dtype is torch.bfloat16
    with pytest.raises(FingerprintMismatch):
        export_trained(weights, tmp_path / "other", model=str(base))


def test_a_folder_that_is_no_run_is_refused(run, tmp_path):
    with pytest.raises(IntegrityError, match="finished run"):
        export_trained(tmp_path / "nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_copy_that_somebody_keeps_beside_it_is_untouched(make, tmp_path, monkeypatch):
    decoder, out = make(), tmp_path / "out"
    extension = trained(decoder, CONFIGS["norms"])
    kept = [export(decoder, extension, Yarn(4), tmp_path / name) for name in ("out", "out.old", "out.part")]
    before = _state(kept[1])
    (tmp_path / "link").symlink_to(out)
    out.joinpath("README.md").unlink()
    export(decoder, extension, Yarn(4), tmp_path / "link")
    assert [_state(folder)["model.safetensors"] for folder in kept[1:]] == [before["model.safetensors"]] * 2
    assert (out / "README.md").is_file(), "the folder behind a link is what is replaced"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out", "out.old", "out.part"]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export(decoder, extension, Yarn(4), Path())
    assert (tmp_path / "here" / "config.json").is_file()
