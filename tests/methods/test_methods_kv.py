"""Keys and values that are kept: the same as a plain second implementation, and the text itself where all are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from preread.core.errors import UsageError, WindowExceeded
from preread.core.types import Passage, Prompt
from preread.methods.kv.method import Kv
from preread.methods.kv.selection import LEAST_WEIGHT, TOWARDS_KEPT, fitted_values, fitted_weights, select
from preread.methods.text import Text
from preread.nn.observed import observe
from preread.nn.reading import read

FAMILIES = ("llama", "qwen2", "gemma")
TEXT = "In winter the storm reached the island at night; the lamp burned and nobody slept. The keeper wrote it down."


def _passage(decoder, text=TEXT, index=0):
    return Passage("doc", index, tuple(decoder.tokens(text).tolist()), 0, len(text), text, "", 0)


@pytest.fixture(params=FAMILIES)
def decoder(request, tiny_decoder):
    return tiny_decoder(request.param)


@torch.inference_mode()
def _logits(decoder, prompt):
    return decoder.logits(read(decoder, prompt)[-1])


def test_all_of_a_passage_kept_is_the_text_itself(decoder):
    passage = _passage(decoder)
    with Kv(ratio=1).attach(decoder) as kv, Text().attach(decoder) as text:
        kept, plain = (handle.prompt("Who slept?", list(handle.encode([passage]))) for handle in (kv, text))
    assert kept.kv is not None
    assert len(kept) == len(plain)
    torch.testing.assert_close(_logits(decoder, kept), _logits(decoder, plain), atol=2e-4, rtol=1e-4)


def test_running_text_behind_all_of_a_passage_is_the_text_itself(decoder):
    passage, after = _passage(decoder), decoder.tokens("The keeper was asleep.")
    with Kv(ratio=1).attach(decoder) as kv:
        prompt = kv.continuation(after, list(kv.encode([passage])))
        plain = Prompt(torch.cat([kv.lead, torch.tensor(passage.ids), after]))
    with torch.inference_mode():
        behind, whole = (decoder.logits(read(decoder, one)[-len(after) :]) for one in (prompt, plain))
    torch.testing.assert_close(behind, whole, atol=2e-4, rtol=1e-4)


def test_the_order_of_memories_does_not_matter(decoder):
    passages = [_passage(decoder), _passage(decoder, "Every ship that passed was in the book.", 1)]
    with Kv(ratio=3).attach(decoder) as kv:
        memories = list(kv.encode(passages))
        one, other = kv.prompt("Who?", memories), kv.prompt("Who?", memories[::-1])
    torch.testing.assert_close(_logits(decoder, one), _logits(decoder, other), atol=1e-5, rtol=1e-5)


def test_what_is_observed_is_what_a_cache_would_hold_and_attention_is_put_back(decoder):
    ids = decoder.tokens(TEXT)
    before = decoder.model.config.get_text_config()._attn_implementation
    seen = observe(decoder, ids)
    assert decoder.model.config.get_text_config()._attn_implementation == before
    cache = decoder.cache(len(ids))
    with torch.inference_mode():
        decoder.hidden(decoder.embed(ids)[None], cache=cache)
    for layer, held in enumerate(cache.layers):
        torch.testing.assert_close(seen.keys[layer], held.keys[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(seen.values[layer], held.values[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "scale"), [("qwen2", 12**-0.5), ("gemma", 256**-0.5)])
def test_kept_are_the_keys_that_the_passage_attends_to_most(tiny_decoder, family, scale):
    """Against loops over layers, heads and queries in double precision."""
    decoder = tiny_decoder(family)
    seen, first, keep = observe(decoder, decoder.tokens(TEXT)), 7, 6
    assert seen.scale == scale
    kept = select(seen, first, keep, match=False)
    layers, heads, length, _ = seen.keys.shape
    shared = seen.queries.shape[1] // heads
    for layer in range(layers):
        for head in range(heads):
            keys = seen.keys[layer, head, first:].double().numpy()
            total, count = np.zeros(length - first), 0
            for query_head in range(head * shared, (head + 1) * shared):
                for query in seen.queries[layer, query_head, first:].double().numpy():
                    shares = np.exp(keys @ query * seen.scale)
                    total += (shares / shares.sum()) ** 2
                    count += 1
            said = (seen.values[layer, head, first:].double().numpy() ** 2).sum(-1)
            expected = sorted(np.argsort(-np.sqrt(total / count) * said, kind="stable")[:keep])
            assert torch.equal(kept.keys[layer, head], seen.keys[layer, head, first:][expected])
            assert torch.equal(kept.values[layer, head], seen.values[layer, head, first:][expected])
    assert not kept.bias.any()


def test_weights_and_values_are_those_of_textbook_solvers():
    draw = torch.Generator().manual_seed(0)
    columns = torch.rand(3, 40, 6, generator=draw) ** 4
    weights = fitted_weights(columns)
    for own, found in zip(columns.double().numpy(), weights.numpy(), strict=True):
        expected, _ = nnls(own, np.ones(len(own)))
        np.testing.assert_allclose(found, np.maximum(expected, LEAST_WEIGHT), atol=5e-3)
    outputs, kept = torch.randn(3, 40, 5, generator=draw), torch.randn(3, 6, 5, generator=draw)
    values = fitted_values(columns, outputs, kept)
    for own, aim, near, found in zip(columns.double(), outputs.double(), kept.double(), values, strict=True):
        shares = (own / own.sum(-1, keepdim=True)).numpy()
        pull = np.sqrt(TOWARDS_KEPT * (shares**2).sum(0).mean())
        stacked = np.concatenate([shares, pull * np.eye(6)])
        expected = np.linalg.lstsq(stacked, np.concatenate([aim.numpy(), pull * near.numpy()]), rcond=None)[0]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_matching_comes_nearer_to_attention_over_all_than_selection_does(tiny_decoder):
    """On the reference queries themselves: what the fit minimises must fall, in mass and in outputs."""
    decoder = tiny_decoder("llama")
    seen, first, keep = observe(decoder, decoder.tokens(TEXT * 2)), 5, 5
    keys = seen.keys[:, :, first:]
    width = keys.shape[-1]
    queries = seen.queries[:, :, first:].reshape(*keys.shape[:2], -1, width)

    def attend(to):
        scores = queries @ to.keys.transpose(-1, -2) * width**-0.5 + to.bias[:, :, None]
        return scores.logsumexp(-1), scores.softmax(-1) @ to.values

    all_mass, all_out = attend(select(seen, first, keys.shape[2], match=False))
    off = {}
    for match in (False, True):
        mass, out = attend(select(seen, first, keep, match))
        off[match] = ((mass - all_mass).exp() - 1).square().mean(), (out - all_out).square().mean()
    assert off[True][0] < off[False][0] / 2
    assert off[True][1] < off[False][1]


def test_what_cannot_be_is_refused(tiny_decoder):
    decoder = tiny_decoder("llama")
    with pytest.raises(UsageError, match="ratio"):
        Kv(ratio=0.5).attach(decoder)
    with Kv().attach(decoder) as kv, pytest.raises(WindowExceeded):
        next(kv.encode([_passage(decoder, TEXT * 200)]))
