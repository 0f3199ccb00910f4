"""What trains beside a decoder: it begins as nothing, leaves nothing behind, and peft reads it as the same function."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Qwen3Config

from preread.core.errors import IntegrityError, UsageError
from preread.methods.longlora.extension import Extension, ExtensionConfig
from preread.models.fingerprint import fingerprint
from preread.models.quantised import quantise
from preread.nn.hf import Decoder
from preread.nn.lora import LoraConfig

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
LORA = LoraConfig(rank=4, dropout=0.0)
CONFIGS = {
    "lora": ExtensionConfig(LORA, norms=False, embeddings="frozen"),
    "lora+": ExtensionConfig(LORA),
    "norms": ExtensionConfig(None, embeddings="frozen"),
    "norms and embeddings": ExtensionConfig(None),
    "lora on embeddings": ExtensionConfig(LORA, embeddings="lora"),
    "mlp too": ExtensionConfig(LoraConfig(rank=2, dropout=0.0, targets=("q_proj", "down_proj"))),
    "everything": ExtensionConfig(everything=True),
}
PEFT = [name for name in CONFIGS if name != "everything"]
IDS = torch.arange(3, 43).reshape(2, 20)


@pytest.fixture(scope="module")
def make(tiny_tokenizer):
    """`make(kind)` is a random decoder: `tied`, `untied`, with norms inside the attention (`qwen3`), or Gemma's."""

    def decoder(kind="tied", dtype=torch.float32):
        common = {
            "vocab_size": len(tiny_tokenizer),
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "max_position_embeddings": 128,
            "initializer_range": 0.1,
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


def stirred(extension, size=0.05):
    """The extension as if training had moved every number of it."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in extension.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size)
    return extension


def logits(decoder, ids=IDS):
    return decoder.model(ids).logits


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", ["tied", "untied", "qwen3"])
@torch.no_grad()
def test_it_begins_as_nothing_changes_the_decoder_and_leaves_nothing_behind(make, kind, name):
    decoder = make(kind)
    before, parameters = logits(decoder), dict(decoder.model.named_parameters())
    extension = Extension(CONFIGS[name], decoder)
    assert torch.equal(logits(decoder), before)
    extension.attach()
    assert torch.equal(logits(decoder), before)
    stirred(extension).refresh()
    assert not torch.allclose(logits(decoder), before, atol=1e-2)
    extension.detach()
    extension.detach()
    assert torch.equal(logits(decoder), before)
    after = dict(decoder.model.named_parameters())
    assert all(after[name] is parameter for name, parameter in parameters.items())
    assert fingerprint(decoder.model, decoder.tokenizer) == decoder.fingerprint


def test_what_trains_is_what_the_config_says(make):
    for kind, norms in (("tied", 2 * 2 + 1), ("qwen3", 2 * 4 + 1)):
        decoder = make(kind)
        names = set(Extension(CONFIGS["norms"], decoder).masters.named())
        assert len(names) == norms
        assert all("norm" in name for name in names)
        both = {"model.embed_tokens.weight", "lm_head.weight"}
        assert set(Extension(CONFIGS["norms and embeddings"], decoder).masters.named()) - names == both
    untied = make("untied")
    assert "lm_head.weight" not in Extension(CONFIGS["lora+"], untied).masters.named()
    whole = Extension(CONFIGS["everything"], untied)
    assert sum(p.numel() for p in whole.parameters()) == sum(p.numel() for p in untied.model.parameters())


def test_every_number_is_float32_and_tied_weights_are_one(make):
    decoder = make("tied", torch.bfloat16)
    extension = stirred(Extension(CONFIGS["lora+"], decoder))
    extension.attach()
    assert {parameter.dtype for parameter in extension.parameters()} == {torch.float32}
    table, head = decoder.model.get_input_embeddings().weight, decoder.model.get_output_embeddings().weight
    assert table is head
    assert table.dtype is torch.bfloat16
    assert len({id(p) for p in extension.parameters()}) == len(list(extension.parameters()))


def _gradients(decoder, extension, recomputed=False):
    """Of a loss that all of the model has a part in; `recomputed` checkpoints every layer."""
    extension.zero_grad()
    extension.refresh()
    if recomputed:
        layers = list(decoder.model.model.layers)
        plain = [layer.forward for layer in layers]
        for layer, forward in zip(layers, plain, strict=True):
            layer.forward = lambda *a, forward=forward, **k: checkpoint(forward, *a, use_reentrant=False, **k)
    loss = decoder.model(IDS, labels=IDS).loss
    if recomputed:
        # The next step may already have begun: what is computed again must be what this step computed.
        extension.refresh()
    loss.backward()
    if recomputed:
        for layer in layers:
            del layer.forward
    return {name: parameter.grad.clone() for name, parameter in extension.named_parameters()}


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_those_of_the_decoder_and_checkpointing_changes_none(make, name):
    decoder = make("tied")
    extension = Extension(CONFIGS[name], decoder)
    extension.attach()
    stirred(extension)
    plain = _gradients(decoder, extension)
    assert all(gradient.abs().max() > 0 for gradient in plain.values())
    for key, gradient in _gradients(decoder, extension, recomputed=True).items():
        assert torch.equal(gradient, plain[key])
    extension.detach()
    with torch.no_grad():  # the same numbers as the model's own parameters
        for where, master in extension.masters.named().items():
            decoder.model.get_parameter(where).copy_(master)
    if not extension._low_rank:
        decoder.model.requires_grad_(True)
        decoder.model(IDS, labels=IDS).loss.backward()
        for where, master in extension.masters.named().items():
            torch.testing.assert_close(decoder.model.get_parameter(where).grad, master.grad)


def test_small_steps_add_up_in_bfloat16(make):
    decoder = make("tied", torch.bfloat16)
    extension = Extension(CONFIGS["norms"], decoder)
    extension.attach()
    norm = decoder.model.model.norm
    optimizer = torch.optim.SGD(extension.parameters(), lr=1.0)
    for _ in range(8):
        for parameter in extension.parameters():
            parameter.grad = torch.full_like(parameter, -(2**-10))
        optimizer.step()
    assert norm.weight[0] == 1  # until the next step begins
    extension.refresh()
    assert norm.weight[0] == 1 + 2**-7


def test_settling_changes_nothing_that_is_computed_and_halves_the_file(make, tmp_path):
    decoder = make("tied", torch.bfloat16)
    extension = stirred(Extension(CONFIGS["lora on embeddings"], decoder)).eval().requires_grad_(False)
    extension.attach()
    extension.refresh()
    before = logits(decoder)
    extension.save(tmp_path / "before")
    extension.settle()
    extension.save(tmp_path / "after")
    assert torch.equal(logits(decoder), before)
    assert {tensor.dtype for tensor in _file(tmp_path / "after").values()} == {torch.bfloat16}
    assert torch.float32 in {tensor.dtype for tensor in _file(tmp_path / "before").values()}


def test_dropout_is_for_training_alone(make):
    decoder = make()
    config = ExtensionConfig(LoraConfig(rank=4, dropout=0.5), norms=False, embeddings="frozen")
    extension = stirred(Extension(config, decoder))
    extension.attach()
    extension.train()
    assert not torch.equal(logits(decoder), logits(decoder))
    extension.eval()
    assert torch.equal(logits(decoder), logits(decoder))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", ["tied", "untied", "qwen3"])
@torch.no_grad()
def test_saving_and_loading_keep_every_bit(make, tmp_path, kind, name):
    decoder = make(kind)
    extension = stirred(Extension(CONFIGS[name], decoder)).eval()
    extension.save(tmp_path)
    extension.attach()
    expected, found = logits(decoder), Extension.load(tmp_path, decoder)  # beside the one in force
    extension.detach()
    assert found.config == extension.config
    assert found.hash == extension.hash
    assert not any(parameter.requires_grad for parameter in found.parameters())
    found.attach()
    assert torch.equal(logits(decoder), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", PEFT)
@pytest.mark.parametrize("kind", ["tied", "untied", "qwen3", "gemma"])
@torch.no_grad()
def test_peft_reads_it_as_the_same_function(make, tmp_path, kind, name, dtype):
    decoder = make(kind, dtype)
    extension = stirred(Extension(CONFIGS[name], decoder)).eval()
    extension.settle()
    extension.save(tmp_path)
    theirs = PeftModel.from_pretrained(make(kind, dtype).model, tmp_path).eval()
    bare = logits(decoder)
    extension.attach()
    ours, expected = logits(decoder), theirs(IDS).logits
    if dtype is torch.float32:
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)
    else:  # peft computes low-rank updates in float32
        assert (ours - expected).norm() < 0.02 * (ours - bare).norm()


def _peft(decoder, **settings):
    """A model that peft has adapted, every trained number of it moved."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ties, which the settings are about
        model = get_peft_model(decoder.model, PeftConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings))
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def _save(model, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)


NORMS = ["input_layernorm", "post_attention_layernorm", "norm"]
THEIRS = {
    "lora+": {"target_modules": ["q_proj", "v_proj"], "modules_to_save": [*NORMS, "embed_tokens"]},
    "norms": {"target_modules": "dummy-target-modules", "modules_to_save": NORMS},
    "embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "lora on embeddings": {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": NORMS},
}


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("kind", ["tied", "untied"])
@torch.no_grad()
def test_what_peft_wrote_is_read_as_the_same_function(make, tmp_path, kind, name):
    model = _peft(make(kind), **THEIRS[name], ensure_weight_tying=kind == "tied")
    _save(model, tmp_path)
    decoder = make(kind)
    extension = Extension.load(tmp_path, decoder)
    extension.attach()
    torch.testing.assert_close(logits(decoder), model(IDS).logits, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["embeddings", "lora on embeddings"])
def test_embeddings_that_came_apart_from_their_head_are_refused(make, tmp_path, name):
    _save(_peft(make("tied"), **THEIRS[name]), tmp_path)
    with pytest.raises(IntegrityError, match="come apart"):
        Extension.load(tmp_path, make("tied"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": ["q_proj"], "use_dora": True}, "use_dora"),
        ({"target_modules": ".*q_proj"}, "pattern"),
    ],
)
def test_other_parts_than_ours_are_refused(make, tmp_path, settings, says):
    _save(_peft(make("untied"), **settings), tmp_path)
    with pytest.raises(IntegrityError, match=says):
        Extension.load(tmp_path, make("untied"))


def _file(folder):
    return load_file(folder / "adapter_model.safetensors")


def _without(tensors, name):
    return {key: tensor for key, tensor in tensors.items() if name not in key}


DAMAGE = {
    "a weight less": lambda t: _without(t, "model.norm"),
    "a low-rank matrix less": lambda t: _without(t, "layers.0.self_attn.q_proj.lora_A"),
    "a weight more": lambda t: {**t, "base_model.model.lm_head.bias": torch.zeros(3)},
    "another shape": lambda t: {**t, "base_model.model.model.norm.weight": torch.ones(1)},
    "a table of another vocabulary": lambda t: {
        **t,
        "base_model.model.model.embed_tokens.weight": torch.ones(7, 48),
        "base_model.model.lm_head.weight": torch.ones(7, 48),
    },
    "a tie that is none": lambda t: {
        **t,
        "base_model.model.lm_head.weight": torch.ones(len(t["base_model.model.lm_head.weight"]), 48),
    },
}


@pytest.mark.parametrize("damage", DAMAGE)
@torch.no_grad()
def test_damage_is_refused_and_the_decoder_is_as_it_was(make, tmp_path, damage):
    decoder = make("tied")
    before = logits(decoder)
    stirred(Extension(CONFIGS["lora+"], decoder)).save(tmp_path)
    save_file(DAMAGE[damage](_file(tmp_path)), tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match="decoder is unchanged"):
        Extension.load(tmp_path, decoder)
    assert torch.equal(logits(decoder), before)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_cut_and_missing_files_are_refused(make, tmp_path, name):
    decoder = make("tied")
    Extension(CONFIGS["lora+"], decoder).save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for content in (whole[: len(whole) // 2], b"[]"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(IntegrityError):
            Extension.load(tmp_path, decoder)
    (tmp_path / name).unlink()
    with pytest.raises(IntegrityError):
        Extension.load(tmp_path, decoder)


def test_all_weights_of_another_decoder_are_refused(make, tmp_path):
    Extension(CONFIGS["everything"], make("untied")).save(tmp_path)
    with pytest.raises(IntegrityError, match="lm_head"):
        Extension.load(tmp_path, make("tied"))


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_it_trains_over_quantised_weights(make, tmp_path, dtype):
    decoder = make("tied", torch.bfloat16)
    quantise(decoder.model, dtype)
    extension = Extension(CONFIGS["lora+"], decoder).train()
    extension.attach()
    optimizer = torch.optim.Adam(extension.parameters(), lr=1e-2)
    losses = []
    for _ in range(6):
        extension.refresh()
        loss = decoder.model(IDS, labels=IDS).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in extension.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    extension.eval().requires_grad_(False).settle()
    expected = logits(decoder)
    extension.save(tmp_path)
    extension.detach()
    again = Extension.load(tmp_path, decoder)
    again.attach()
    assert torch.equal(logits(decoder), expected)


def test_what_makes_no_sense_is_said(make):
    decoder = make("tied", torch.bfloat16)
    with pytest.raises(UsageError, match="w_proj"):
        Extension(ExtensionConfig(LoraConfig(targets=("q_proj", "w_proj"))), decoder)
    with pytest.raises(UsageError, match="lora: null"):
        ExtensionConfig(None, embeddings="lora")
    with pytest.raises(UsageError, match="nothing"):
        ExtensionConfig(None, norms=False, embeddings="frozen")
    with pytest.raises(UsageError, match="nothing"):
        ExtensionConfig(LoraConfig(targets=()), norms=False, embeddings="frozen")
    quantise(decoder.model, "int8")
    with pytest.raises(UsageError, match="quantised"):
        Extension(CONFIGS["everything"], decoder)


def test_the_checkpoint_says_what_is_in_it(make, tmp_path):
    Extension(CONFIGS["lora+"], make("tied")).save(tmp_path)
    said = json.loads((tmp_path / "adapter_config.json").read_text())
    assert said["modules_to_save"] == ["embed_tokens", "input_layernorm", "norm", "post_attention_layernorm"]
    assert said["ensure_weight_tying"] is True


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_a_second_one_is_refused_and_leaves_the_first_in_force(make, name):
    decoder = make("tied")
    before, first, second = logits(decoder), *(stirred(Extension(CONFIGS[name], decoder)).eval() for _ in range(2))
    first.attach()
    extended = logits(decoder)
    for again in (first, second):
        with pytest.raises(UsageError, match="Detach the other"):
            again.attach()
    second.detach()
    assert torch.equal(logits(decoder), extended)
    first.detach()
    assert torch.equal(logits(decoder), before)
    second.attach()
    second.detach()
