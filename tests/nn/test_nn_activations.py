"""Levers save memory and change no gradient, whatever trains and whatever family the decoder is of."""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from torch import nn

from preread.core.errors import UnsupportedModel, UsageError
from preread.models.quantised import quantise
from preread.nn.activations import PIECE, Levers, frugal
from preread.nn.lora import Lora, LoraConfig
from preread.nn.losses import answer_losses
from preread.nn.masters import Masters
from preread.training.peak import Peak

COMBINATIONS = [
    Levers(checkpoint, offload, tiles)
    for checkpoint, offload, tiles in product(("none", "selective", "full"), (False, True), (1, 3))
    if not (offload and checkpoint == "none")
]
LENGTH = 37  # three tiles do not divide it


@dataclass
class Trained:
    """A float64 decoder with low-rank updates of all its layers, beside which other things may train."""

    decoder: object
    lora: Lora
    masters: Masters | None

    def gradients(self, levers):
        """Of a step, by name; and its loss."""
        self.decoder.model.zero_grad()
        self.lora.zero_grad()
        if self.masters is not None:
            self.masters.zero_grad()
            self.masters.refresh()
        torch.manual_seed(1)  # dropout takes part
        with frugal(self.decoder.model, levers), self.decoder.adapters.use("lora"):
            loss = self.loss()
            loss.backward()
        parts = [self.lora, self.decoder.model, *([self.masters] if self.masters else [])]
        named = (f"{i}.{name}" for i, part in enumerate(parts) for name, _ in part.named_parameters())
        found = dict(zip(named, (p.grad for part in parts for p in part.parameters()), strict=True))
        return {"loss": loss.detach()} | {name: grad.clone() for name, grad in found.items() if grad is not None}

    def loss(self, rows=2, length=LENGTH):
        ids = torch.randint(3, 300, (rows, length + 1), generator=torch.Generator().manual_seed(0))
        states = self.decoder.hidden(self.decoder.embed(ids[:, :-1]))
        return answer_losses(self.decoder.logits, states.flatten(0, 1), ids[:, 1:].flatten())[0]


@pytest.fixture
def trained(tiny_decoder):
    """`trained(family, what)`: only low-rank updates, masters of norms and embeddings too, or all weights."""

    @contextmanager
    def make(family="llama", what="parts"):
        decoder = tiny_decoder(family)
        decoder.model.double().train()
        lora = Lora(LoraConfig(rank=2, dropout=0.3), decoder.projections).double()
        for b in lora.b.values():
            nn.init.normal_(b, generator=torch.Generator().manual_seed(3))
        decoder.adapters.add("lora", lora)
        masters = None
        if what == "parts":
            names = [n for n, _ in decoder.model.named_parameters() if "norm" in n or "embed" in n]
            masters = Masters(decoder.model, names).double()
            masters.attach()
        decoder.model.requires_grad_(what == "everything")
        yield Trained(decoder, lora.train(), masters)

    return make


@pytest.mark.parametrize("what", ["low-rank", "parts", "everything"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma"])
def test_gradients_are_those_of_the_plain_step(trained, family, what):
    with trained(family, what) as made:
        plain = made.gradients(Levers("none"))
        assert len(plain) > 8, "what trains has gradients"
        # Gemma's norms compute in float32 whatever the weights are, and tiles add up in another order.
        exact = {"rtol": 1e-10, "atol": 1e-12} if family != "gemma" else {"rtol": 1e-4, "atol": 1e-6}
        for levers in COMBINATIONS:
            frugally = made.gradients(levers)
            assert frugally.keys() == plain.keys()
            for name, gradient in plain.items():
                assert torch.allclose(frugally[name], gradient, **exact), (levers, name)


def test_behind_the_block_the_decoder_is_what_it_was(trained):
    with trained() as made:
        before = [dict(vars(module)) for module in made.decoder.model.modules()]
        with pytest.raises(ZeroDivisionError), frugal(made.decoder.model, Levers("full", True, 2)):
            raise ZeroDivisionError
        assert [dict(vars(module)) for module in made.decoder.model.modules()] == before


def test_without_gradients_and_with_a_cache_it_runs_as_ever(trained):
    """A layer that is computed again would write a cache twice."""
    with trained(what="everything") as made:
        embeds = made.decoder.embed(torch.arange(12)[None]).detach()
        plain = made.decoder.hidden(embeds).detach()
        with frugal(made.decoder.model, Levers("full", tiles=2)):
            cache = made.decoder.growing_cache(wide=False)
            cached = made.decoder.hidden(embeds, cache=cache)
            cached.sum().backward()
            assert cache.get_seq_length() == 12
            assert torch.allclose(cached, plain)
            with torch.no_grad():
                assert torch.allclose(made.decoder.hidden(embeds), plain)


def kept(made, levers, **size):
    """Bytes that live between forward and backward pass, and the most in both."""
    with frugal(made.decoder.model, levers), made.decoder.adapters.use("lora"), Peak() as peak:
        loss = made.loss(**size)
        between = peak.now
        loss.backward()
    return between, peak.highest


def test_each_lever_keeps_less_than_the_one_before(trained):
    with trained("qwen2", "low-rank") as made:
        made.decoder.model.float()
        made.lora.float()
        size = {"rows": 1, "length": 512}
        plain, selective, full, tiled = (
            kept(made, levers, **size)
            for levers in (Levers("none"), Levers("selective"), Levers("full"), Levers("full", tiles=8))
        )
    assert plain[0] > selective[0] > full[0] >= tiled[0]
    assert plain[1] > selective[1] > full[1] > tiled[1]
    width, layers, heads = 48, 3, 4
    # Selective checkpointing keeps in addition what attention gave, and one float for each head and position.
    assert selective[0] - full[0] == layers * 512 * (width + heads) * 4


def test_full_checkpointing_keeps_one_tensor_a_layer_for_each_position(trained):
    with trained("qwen2", "low-rank") as made:
        made.decoder.model.float()
        made.lora.float()
        short, long = (kept(made, Levers("full", tiles=4), rows=1, length=length)[0] for length in (512, 1024))
    width, layers = 48, 3
    # Beside the inputs: the last states, the angles, the tokens and targets, by whatever the loss keeps of them.
    assert layers * 512 * width * 4 <= long - short <= (layers + 3) * 512 * width * 4


@pytest.mark.parametrize("offload", [False, True])
def test_offloaded_inputs_leave_the_place_where_they_were(trained, offload):
    inputs = []
    with trained() as made:
        layers = made.decoder.model.base_model.layers
        hooks = [
            layer.register_forward_pre_hook(lambda _, args: inputs.append(weakref.ref(args[0].untyped_storage())))
            for layer in layers
        ]
        with frugal(made.decoder.model, Levers("full", offload)), made.decoder.adapters.use("lora"):
            loss = made.loss()
            alive = [storage() is not None for storage in inputs]
            loss.backward()
        for hook in hooks:
            hook.remove()
    assert alive == [not offload] * len(layers)


def test_what_is_larger_than_a_piece_comes_back_whole(monkeypatch, trained):
    with trained() as made:
        plain = made.gradients(Levers("none"))
        monkeypatch.setattr("preread.nn.activations.PIECE", 1000)
        assert PIECE > 1000
        offloaded = made.gradients(Levers("full", offload=True))
    assert all(torch.allclose(offloaded[name], gradient, rtol=1e-10, atol=1e-12) for name, gradient in plain.items())


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"tiles": 0}, {"checkpoint": "none", "offload": True}):
        with pytest.raises(UsageError, match="tiles of at least 1"):
            Levers(**wrong)


def test_a_model_of_another_build_is_refused(tiny_decoder):
    model = tiny_decoder().model
    with pytest.raises(UnsupportedModel, match="layers as `layers`"), frugal(nn.Linear(2, 2), Levers()):
        pass
    for layer in model.base_model.layers:
        layer.feed_forward = layer.mlp
        del layer.mlp
    with pytest.raises(UnsupportedModel, match="an `mlp`"), frugal(model, Levers(tiles=2)):
        pass


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torchao")
def test_over_a_4_bit_base_gradients_are_those_over_the_weights_it_stands_for(tiny_decoder):
    """QLoRA: the base's weights are unpacked on the way, and what trains sees no difference."""

    def gradients(unpacked):
        decoder = tiny_decoder()
        decoder.model.bfloat16()
        quantise(decoder.model, "int4")
        if unpacked:
            for layer in decoder.model.base_model.layers.modules():
                if isinstance(layer, nn.Linear):
                    layer.weight = nn.Parameter(layer.weight.get_original_weight(), requires_grad=False)
        torch.manual_seed(0)
        lora = Lora(LoraConfig(rank=2, dropout=0.0), decoder.projections)
        for b in lora.b.values():
            nn.init.normal_(b, generator=torch.Generator().manual_seed(3))
        decoder.adapters.add("lora", lora)
        made = Trained(decoder, lora, Masters(decoder.model, ["model.norm.weight", "model.embed_tokens.weight"]))
        made.masters.attach()
        return made.gradients(Levers("full", tiles=2))

    quantised, plain = gradients(unpacked=False), gradients(unpacked=True)
    assert quantised.keys() == plain.keys()
    assert all(gradient.abs().max() > 0 for gradient in quantised.values())
    for name, gradient in plain.items():
        assert torch.allclose(quantised[name], gradient, rtol=1e-6), name
