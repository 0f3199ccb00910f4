"""Laws of prompts whose memory is keys and values: given back as they were read, weighted, and trained through."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from preread.core.errors import UnsupportedModel
from preread.core.types import MEMORY, KeyValues, Prompt
from preread.nn.cpu import fold_heads
from preread.nn.hf import Decoder
from preread.nn.lora import Lora, LoraConfig
from preread.nn.reading import Reading, begins, followed, read

FAMILIES = ["llama", "qwen2"]


def taken(decoder: Decoder, ids: torch.Tensor, inside: range, bias: torch.Tensor | None = None) -> Prompt:
    """The same text, of which some positions are given as the keys and values that reading it leaves in the cache."""
    cache = decoder.cache(len(ids))
    with torch.no_grad():
        decoder.hidden(decoder.embed(ids)[None], cache=cache)
    keys = torch.stack([layer.keys[0, :, inside.start : inside.stop] for layer in cache.layers]).clone()
    values = torch.stack([layer.values[0, :, inside.start : inside.stop] for layer in cache.layers]).clone()
    masked = ids.clone()
    masked[inside.start : inside.stop] = MEMORY
    bias = torch.zeros(keys.shape[:3]) if bias is None else bias
    return Prompt(masked, kv=KeyValues(keys, values, bias), positions=torch.arange(len(ids)))


def ids_of(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 300, (length,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", [*FAMILIES, "gemma"])
@pytest.mark.parametrize("inside", [range(4, 21), range(9), range(5, 6)])
def test_what_was_read_and_given_back_reads_the_same(tiny_decoder, family: str, inside: range):
    decoder, ids = tiny_decoder(family), ids_of(30)
    whole = read(decoder, Prompt(ids))
    outside = [i for i in range(30) if i not in inside]
    prompt = taken(decoder, ids, inside)
    torch.testing.assert_close(read(decoder, prompt), whole[outside], atol=1e-5, rtol=0)
    slots = decoder.cache(30)
    torch.testing.assert_close(read(decoder, prompt, slots), whole[outside], atol=1e-5, rtol=0)
    assert slots.get_seq_length() == 30


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("copies", [2, 5])
@torch.inference_mode()
def test_a_key_that_stands_for_several_weighs_as_much_as_they_do(tiny_decoder, family: str, copies: int):
    """A bias of log m is the same key m times, in every head and layer, read by one position or by many."""
    decoder, ids, inside = tiny_decoder(family), ids_of(30), range(4, 15)
    once = taken(decoder, ids, inside)
    many = once.kv.bias.clone()
    many[:, :, 3] = math.log(copies)
    weighted = Prompt(once.ids, kv=KeyValues(once.kv.keys, once.kv.values, many), positions=once.positions)
    index = torch.tensor([*range(3), *[3] * copies, *range(4, 11)])
    repeated = Prompt(
        torch.cat([once.ids[:4], torch.full((len(index),), MEMORY), once.ids[15:]]),
        kv=KeyValues(once.kv.keys[:, :, index], once.kv.values[:, :, index], torch.zeros(*many.shape[:2], len(index))),
        positions=torch.cat([once.positions[:4], once.positions[4:15][index], once.positions[15:]]),
    )
    expected = read(decoder, repeated)
    torch.testing.assert_close(read(decoder, weighted), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(read(decoder, once), expected, atol=1e-3)
    for tail in (followed(weighted, ids_of(3, 1)), followed(weighted, ids_of(1, 1))):
        plain = followed(repeated, tail.ids[-1:] if len(tail) == len(weighted) + 1 else tail.ids[-3:])
        torch.testing.assert_close(read(decoder, tail), read(decoder, plain), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_a_bias_may_differ_from_head_to_head_and_take_a_key_out(tiny_decoder, family: str):
    """Taking keys out by their bias is not giving them; a bias of one head changes what comes behind it, not before."""
    decoder, ids, inside = tiny_decoder(family), ids_of(30), range(4, 15)
    once = taken(decoder, ids, inside)
    out = torch.zeros_like(once.kv.bias)
    out[:, :, [1, 7]] = -math.inf
    without = torch.tensor([i for i in range(11) if i not in {1, 7}])
    weighted = Prompt(once.ids, kv=KeyValues(once.kv.keys, once.kv.values, out), positions=once.positions)
    fewer = Prompt(
        torch.cat([once.ids[:4], once.ids[4:15][without], once.ids[15:]]),
        kv=KeyValues(*(s[:, :, without] for s in (once.kv.keys, once.kv.values, once.kv.bias))),
        positions=torch.cat([once.positions[:4], once.positions[4:15][without], once.positions[15:]]),
    )
    torch.testing.assert_close(read(decoder, weighted), read(decoder, fewer), atol=1e-5, rtol=0)
    same = Prompt(once.ids, kv=KeyValues(once.kv.keys, once.kv.values, out * 0 + 1.5), positions=once.positions)
    lead = read(decoder, same)[:4]
    torch.testing.assert_close(lead, read(decoder, once)[:4], atol=1e-6, rtol=0)
    apart = once.kv.bias.clone()
    apart[:, 0, 2] = 3.0
    by_head = Prompt(once.ids, kv=KeyValues(once.kv.keys, once.kv.values, apart), positions=once.positions)
    assert not torch.allclose(read(decoder, by_head)[4:], read(decoder, once)[4:], atol=1e-4)


@torch.inference_mode()
def test_biased_and_plain_rows_share_a_cache(tiny_decoder):
    decoder, ids, inside = tiny_decoder("qwen2"), ids_of(30), range(4, 15)
    fold_heads(decoder)
    biased = taken(decoder, ids, inside, torch.rand(3, 2, 11))
    plain = Prompt(ids_of(17, 2))
    cache, token = decoder.cache(40, slots=2), torch.tensor([[7], [9]])
    cache.at(0)
    read(decoder, plain, cache)
    cache.at(1)
    read(decoder, biased, cache)
    cache.at(0, 2)
    positions = torch.tensor([[17], [30]])
    states = decoder.hidden(decoder.embed(token), decoder.ragged_mask([17, 30]), positions, cache)
    for row, prompt in enumerate((plain, biased)):
        alone = read(decoder, followed(prompt, token[row]))
        torch.testing.assert_close(states[row, 0], alone[-1], atol=1e-5, rtol=0)


def test_positions_say_where_tokens_stand(tiny_decoder):
    """RoPE knows distances alone: moving a whole text changes nothing, a gap in it does."""
    decoder, ids = tiny_decoder(), ids_of(12)
    whole = read(decoder, Prompt(ids))
    moved = read(decoder, Prompt(ids, positions=torch.arange(12) + 100))
    gap = read(decoder, Prompt(ids, positions=torch.arange(12) + 100 * (torch.arange(12) > 5)))
    torch.testing.assert_close(moved, whole, atol=1e-4, rtol=0)
    torch.testing.assert_close(gap[:6], whole[:6], atol=1e-4, rtol=0)
    assert not torch.allclose(gap[6:], whole[6:], atol=1e-2)


def test_gradients_reach_an_adapter_past_given_keys(tiny_decoder):
    """By finite differences along one direction, in what is read before and after the given keys."""
    config = LlamaConfig(
        vocab_size=400, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    decoder = Decoder(model, tiny_decoder().tokenizer, "tiny", "0")
    prompt = taken(decoder, ids_of(20), range(5, 12), torch.rand(2, 2, 7))
    lora = decoder.adapters.add("a", Lora(LoraConfig(rank=2, dropout=0.0), decoder.projections).double())
    for b in lora.b.values():
        torch.nn.init.normal_(b, std=0.1)
    directions, weights = [torch.randn_like(p) for p in lora.parameters()], torch.randn(13, 32)

    def loss() -> torch.Tensor:
        with decoder.adapters.use("a"):
            return (read(decoder, prompt) * weights).sum()

    grads = torch.autograd.grad(loss(), list(lora.parameters()))
    slope = sum((g * d).sum() for g, d in zip(grads, directions, strict=True))
    ends, step = [], 1e-3  # norms are computed in float32
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(lora.parameters(), directions, strict=True):
                p += sign * step * d
            ends.append(loss())
            for p, d in zip(lora.parameters(), directions, strict=True):
                p -= sign * step * d
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-2, atol=1e-3)


def test_a_decoder_that_cannot_weigh_keys_is_refused(tiny_decoder):
    decoder, ids = tiny_decoder("gemma"), ids_of(20)
    plain = taken(decoder, ids, range(4, 10))
    read(decoder, plain)
    with pytest.raises(UnsupportedModel, match="eager"):
        read(decoder, taken(decoder, ids, range(4, 10), torch.ones_like(plain.kv.bias)))


def test_pieces_end_where_the_shared_positions_and_the_memory_do(tiny_decoder):
    decoder, ids = tiny_decoder(), ids_of(50)
    kv = taken(decoder, ids, range(10, 30))

    def pieces(prompt: Prompt, most: int) -> list[tuple[int, int]]:
        return [(piece.start, piece.stop) for piece in Reading(decoder, prompt, most).left]

    def sharing(prompt: Prompt, shared: int) -> Prompt:
        return Prompt(prompt.ids, kv=prompt.kv, positions=prompt.positions, shared=shared)

    assert pieces(sharing(kv, 41), 8) == [(0, 8), (8, 10), (10, 30), (30, 38), (38, 41), (41, 49), (49, 50)]
    assert begins(sharing(kv, 20)) == 10
    assert begins(sharing(kv, 50)) == 49, "the last position is read, for its logits"
    assert pieces(Prompt(ids), 16) == [(0, 16), (16, 32), (32, 48), (48, 50)]
