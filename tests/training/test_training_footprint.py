"""What is said of a step's memory from a config alone is what the step takes."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

from preread.core.errors import ResourceError, UnsupportedModel
from preread.core.types import TextBatch
from preread.methods.longlora.extension import ExtensionConfig
from preread.methods.longlora.method import Attention, LongLora
from preread.models.hollow import hollow
from preread.models.quantised import quantise
from preread.nn.activations import Levers, frugal
from preread.nn.hf import Decoder
from preread.training import optimizers
from preread.training.footprint import BITS, UNPACKED, Plan, fit, footprint
from preread.training.peak import Peak

LENGTH = 192
COMMON = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 6,
}
LLAMA = LlamaConfig(num_key_value_heads=2, **COMMON)
QWEN2 = Qwen2Config(num_key_value_heads=4, tie_word_embeddings=True, **COMMON)
BATCH = TextBatch(torch.zeros(1, LENGTH, dtype=torch.int64), 0)


@contextmanager
def training(decoder, embeddings="full", kind="s2"):
    method = LongLora(
        length=LENGTH,
        levers=Levers("none"),
        extension=ExtensionConfig(embeddings=embeddings),
        attention=Attention(kind=kind),
    )
    with method.attach(decoder) as handle:
        yield handle.objective("extend")


def real(config):
    return Decoder(AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16), hollow(config).tokenizer, "real", "")


def estimated(config, plan, **settings):
    decoder = hollow(config)
    with training(decoder, **settings) as objective:
        return footprint(decoder, objective, BATCH, replace(plan, gpu=False))


def measured(config, plan, **settings):
    """Bytes that two micro-steps and the optimizer's take beside what stands still: of the second step, warm."""
    decoder = real(config)
    with training(decoder, **settings) as objective, frugal(decoder.model, plan.levers):
        parameters = [*objective.trainable().values()]
        optimizer = optimizers.optimizer(plan.optimizer, parameters, 1e-4, (0.9, 0.95), 0.0)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        with Peak() as peak:
            torch.stack(list(objective(BATCH).values())).sum().backward()
            optimizer.step()
    return peak.highest


LEVERS = [Levers("none"), Levers("selective"), Levers("full"), Levers("full", tiles=3), Levers("full", True, 3)]
CASES = [
    *((levers, (LLAMA, "full", "s2")) for levers in LEVERS),
    (LEVERS[1], (QWEN2, "full", "full")),
    (LEVERS[3], (QWEN2, "frozen", "s2")),
]


@pytest.mark.parametrize(("levers", "case"), CASES, ids=[f"{case[0].model_type}-{levers}" for levers, case in CASES])
def test_it_is_what_a_real_step_takes(levers, case):
    config, embeddings, kind = case
    plan = Plan(levers)
    found = estimated(config, plan, embeddings=embeddings, kind=kind)
    taken = measured(config, plan, embeddings=embeddings, kind=kind)
    # On a CPU what is offloaded stays in the same memory.
    assert found.kept + found.working + found.host == pytest.approx(taken, rel=0.01)
    assert found.host == (levers.offload and 6 * LENGTH * 64 * 2)


@pytest.mark.filterwarnings("ignore::UserWarning:torchao", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_what_stands_still_is_counted_to_the_byte(name):
    found = estimated(LLAMA, Plan(optimizer=name))
    decoder = real(LLAMA)
    with training(decoder) as objective:
        parameters = [*objective.trainable().values()]
        optimizer = optimizers.optimizer(name, parameters, 1e-4, (0.9, 0.95), 0.0)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        states = [optimizers.flat(optimizer.state[parameter]) for parameter in parameters]
        moments = sum(tensor.nbytes for state in states for key, tensor in state.items() if key.startswith("exp_avg"))
    assert found.weights == sum(parameter.nbytes for parameter in decoder.model.parameters())
    assert found.trained == found.gradients == sum(parameter.nbytes for parameter in parameters)
    assert found.moments == moments


@pytest.mark.filterwarnings("ignore::UserWarning:torchao", "ignore::DeprecationWarning")
@pytest.mark.parametrize("base", ["int8", "int4"])
def test_a_quantised_base_is_as_large_as_it_says(base):
    layer = nn.Linear(256, 512, bias=False, dtype=torch.bfloat16)

    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def get_output_embeddings(self):
            return None

    quantise(One(), base)
    inputs = torch.randn(1, 256, dtype=torch.bfloat16, requires_grad=True)
    with Peak() as peak:
        layer(inputs).sum().backward()
    parts, _ = layer.weight.__tensor_flatten__()
    kept = sum(
        getattr(layer.weight, part).nbytes for part in parts if isinstance(getattr(layer.weight, part), torch.Tensor)
    )
    numbers = 256 * 512
    assert kept * 8 / numbers == pytest.approx(BITS[base], rel=0.05)
    assert 0.8 * UNPACKED[base] * numbers <= peak.highest <= 1.05 * UNPACKED[base] * numbers


def test_what_is_shared_out_is_a_share():
    alone, shared = (estimated(LLAMA, Plan(devices=devices)) for devices in (1, 8))
    for kind in ("trained", "gradients", "moments"):
        assert getattr(shared, kind) == getattr(alone, kind) // 8
    outside = 2 * 512 * 64 * 2 + 64 * 2  # table, head and last norm in bfloat16: gathered whole
    layers = alone.weights - outside
    assert shared.weights == round(alone.weights / 8 + 2 * layers / 6 + outside)
    assert (shared.kept, shared.working) == (alone.kept, alone.working)


def test_what_has_room_is_as_quick_as_can_be():
    decoder = hollow(LLAMA)
    with training(decoder) as objective:
        plenty, first = fit(decoder, objective, BATCH, memory=10**12, host=0)
        assert plenty == Plan(Levers("none"))
        less, second = fit(decoder, objective, BATCH, memory=first.total - 1, host=0)
        assert less == Plan(Levers("selective"))
        assert second.total < first.total


@pytest.mark.slow
def test_every_plan_fits_where_the_one_before_does_not(monkeypatch):
    monkeypatch.setattr("preread.training.footprint.TILES", (2,))
    decoder, plans, memory = hollow(LLAMA), [], 10**12
    with training(decoder) as objective:
        for _ in range(4):
            plan, found = fit(decoder, objective, BATCH, memory, host=10**12)
            assert found.total <= memory
            plans.append(plan)
            memory = found.total - 1
        assert len(set(plans)) == 4
        with pytest.raises(ResourceError, match="GB of a device at least"):
            fit(decoder, objective, BATCH, memory=0, host=10**12)
        last, found = fit(decoder, objective, BATCH, memory=plans_total(objective, decoder), host=10**12)
        assert (last.base, last.optimizer, last.levers.offload) == ("int4", "adamw8bit", True)


def plans_total(objective, decoder):
    """What the most sparing plan takes."""
    return footprint(decoder, objective, BATCH, Plan(Levers("full", True, 2), "adamw8bit", "int4")).total


def test_a_decoder_that_does_not_attend_in_full_is_refused():
    config = MistralConfig(num_key_value_heads=2, sliding_window=32, **COMMON)
    with pytest.raises(UnsupportedModel, match="all attend in full"):
        hollow(config)
