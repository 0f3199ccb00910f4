"""Our LoRA against PEFT's, in numbers and in files."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model

from preread.core.errors import IntegrityError, UsageError
from preread.nn.lora import Lora, LoraConfig

# PEFT still asks transformers by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def decoder(tiny_decoder):
    return tiny_decoder("llama")


def randomised(decoder, **config):
    torch.manual_seed(0)
    lora = Lora(LoraConfig(rank=4, alpha=8.0, **config), decoder.projections).eval()
    for b in lora.b.values():
        torch.nn.init.normal_(b, std=0.2)
    return lora


@torch.inference_mode()
def test_a_saved_adapter_gives_the_same_logits_in_peft(decoder, tmp_path, tiny_decoder):
    lora, ids = randomised(decoder), torch.arange(3, 30)[None]
    decoder.adapters.add("a", lora)
    with decoder.adapters.use("a"):
        ours = decoder.model(ids).logits
    lora.save(tmp_path)
    theirs = PeftModel.from_pretrained(tiny_decoder("llama").model, tmp_path)(ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_an_adapter_of_peft_loads_here(decoder, tmp_path, tiny_decoder):
    torch.manual_seed(1)
    config = PeftConfig(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model, ids = get_peft_model(tiny_decoder("llama").model, config).eval(), torch.arange(3, 30)[None]
    model.save_pretrained(tmp_path)
    decoder.adapters.add("a", Lora.load(tmp_path, decoder.projections))
    with decoder.adapters.use("a"):
        torch.testing.assert_close(decoder.model(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)


def test_saving_and_loading_is_bit_exact(decoder, tmp_path):
    lora = randomised(decoder)
    lora.save(tmp_path)
    again = Lora.load(tmp_path, decoder.projections)
    assert again.config == lora.config
    for key, value in lora.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


@pytest.mark.parametrize(
    "damage", ["missing", "truncated", "shape", "single", "extra", "config", "rslora", "dora", "pattern"]
)
def test_a_damaged_adapter_is_refused_and_nothing_is_attached(decoder, tmp_path, damage):
    lora = randomised(decoder, targets=("q_proj",)) if damage == "shape" else randomised(decoder)
    if damage == "single":
        lora = Lora(LoraConfig(rank=1), decoder.projections)
    lora.save(tmp_path)
    config, weights = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "config":
        config.write_text("{")
    else:
        changed = {
            "shape": {"r": 7},
            "single": {"r": 8},
            "extra": {"target_modules": ["q_proj"]},
            "rslora": {"use_rslora": True},
            "dora": {"use_dora": True},
            "pattern": {"rank_pattern": {"q_proj": 2}},
        }[damage]
        config.write_text(json.dumps({**json.loads(config.read_text()), **changed}))
    with pytest.raises(IntegrityError):
        Lora.load(tmp_path, decoder.projections)
    assert not any(module._forward_hooks for module in decoder.model.modules())


def test_one_adapter_acts_at_a_time_and_an_unknown_one_is_refused(decoder):
    ids = torch.arange(3, 30)[None]
    decoder.adapters.add("a", randomised(decoder))
    decoder.adapters.add("b", randomised(decoder, targets=("q_proj",)))
    with torch.inference_mode():
        bare = decoder.model(ids).logits
        with decoder.adapters.use("a"):
            a = decoder.model(ids).logits
            with decoder.adapters.use("b"):
                b = decoder.model(ids).logits
            assert torch.equal(decoder.model(ids).logits, a), "the outer one is back"
        assert torch.equal(decoder.model(ids).logits, bare)
    assert not torch.equal(a, b)
    assert not torch.equal(a, bare)
    with pytest.raises(UsageError, match="a, b"), decoder.adapters.use("c"):
        pass


def test_threads_do_not_feel_each_others_adapter(decoder):
    """Which adapter acts is a state of the decoder: a thread that wants another one waits."""
    decoder.adapters.add("a", randomised(decoder))
    ids = torch.arange(3, 30)[None]

    def logits(name):
        with torch.inference_mode(), decoder.adapters.use(name):
            return decoder.model(ids).logits

    expected = {name: logits(name) for name in ("a", None)}
    with ThreadPoolExecutor(4) as pool:
        for name, got in zip(["a", None] * 40, pool.map(logits, ["a", None] * 40), strict=True):
            assert torch.equal(got, expected[name])


@pytest.mark.parametrize("senseless", [{"rank": 0}, {"alpha": 0.0}, {"alpha": float("nan")}, {"dropout": 1.0}])
def test_a_shape_that_makes_no_adapter_is_refused(senseless):
    with pytest.raises(UsageError, match="rank of at least 1"):
        LoraConfig(**senseless)
