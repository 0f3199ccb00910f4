"""Shifted sparse attention on a device: every backend that it allows is the definition, and leaks nothing."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config

from preread.bench.s2 import Case, dense_error, layouts, model_leaks, small_llama
from preread.methods.longlora import attach, detach
from preread.methods.longlora.attention import shifted_attention

ON = [("sdpa", "cpu"), *(pytest.param((name, "cuda"), marks=pytest.mark.gpu) for name in ("sdpa", "flex", "varlen"))]
"""SDPA on the CPU too, so that the tests themselves are proven where there is no GPU."""
CASES = [Case(9, 3, (61,), 16), Case(8, 2, (20, 31, 10), 8), Case(3, 1, (400, 7, 129), 128), Case(5, 5, (513,), 256)]
"""The last two meet several blocks of a kernel."""


@pytest.fixture(params=ON, ids=str)
def on(request):
    backend, device = request.param
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return backend, device


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_gradients_are_the_definitions_in_half_precision(on, case):
    backend, device = on
    error = dense_error(partial(shifted_attention, backend=backend), case, dtype=torch.bfloat16, device=device)
    assert error < 0.06  # gradients of up to 6, at 8 bits


@pytest.mark.parametrize("layout", layouts())
def test_nothing_leaks_in_training_with_checkpointing(on, layout):
    backend, device = on
    model = small_llama(9, 3).to(device, torch.bfloat16)
    assert model_leaks(model, layouts()[layout], group=16, backend=backend) == 0


def test_auto_trains_as_sdpa_does(on):
    """Mixed precision as trainers have it: float32 weights under autocast."""
    backend, device = on
    model, losses = small_llama(8, 2).to(device), []
    ids = torch.randint(0, 32, (2, 100), generator=torch.Generator().manual_seed(0)).to(device)
    for name in ("sdpa", "auto", backend):
        attach(model, group=16, full_below=0, backend=name)
        with torch.autocast(device, torch.bfloat16):
            loss = model.train()(ids, labels=ids, use_cache=False).loss
        loss.backward()
        losses.append(float(loss.detach()))
        detach(model.eval())
    assert losses[1:] == pytest.approx([losses[0]] * 2, abs=2e-2)


def test_bounded_scores_are_computed_by_flex_as_by_the_formula(on):
    backend, device = on
    if backend == "varlen":
        pytest.skip("has no soft cap")
    config = Gemma2Config(
        vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, attn_logit_softcapping=1.0, layer_types=["full_attention"] * 2,
        initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="eager").to(device)
    ids, gradients = torch.randint(0, 32, (1, 300), generator=torch.Generator().manual_seed(0)).to(device), []
    for name in ("sdpa", backend):
        model.zero_grad()
        attach(model, group=128, full_below=0, backend=name)
        model.train()(ids, labels=ids, use_cache=False).loss.backward()
        gradients.append(torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None]))
        detach(model.eval())
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.999
