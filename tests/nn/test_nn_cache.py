"""The pre-allocated cache against a forward pass without any, for every kind of layer it accepts."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from preread.core.errors import UnsupportedModel
from preread.nn.cpu import fold_heads
from preread.nn.hf import Decoder

COMMON = {
    "vocab_size": 400,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.1,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**COMMON),
    "mistral sliding": MistralConfig(sliding_window=7, **COMMON),
    "qwen2 mixed": Qwen2Config(use_sliding_window=True, sliding_window=7, max_window_layers=1, **COMMON),
    "gemma3 mixed": Gemma3TextConfig(
        head_dim=16,
        sliding_window=7,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        **COMMON,
    ),
}


def decoder_of(config: PreTrainedConfig, tokenizer) -> Decoder:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return Decoder(model, tokenizer, "tiny", "0")


@pytest.fixture(params=CONFIGS, scope="module")
def decoder(request: pytest.FixtureRequest, tiny_tokenizer) -> Decoder:
    return decoder_of(CONFIGS[request.param], tiny_tokenizer)


@pytest.mark.parametrize("folded", [False, True])
@torch.inference_mode()
def test_cached_positions_equal_the_uncached_forward(decoder: Decoder, folded: bool):
    if folded:
        fold_heads(decoder.model)
    embeds = decoder.embed(torch.randint(0, 400, (1, 30)))
    whole = decoder.hidden(embeds)
    cache = decoder.cache(30)
    pieces = [decoder.hidden(embeds[:, :12], cache=cache), decoder.hidden(embeds[:, 12:17], cache=cache)]
    pieces += [decoder.hidden(embeds[:, t : t + 1], cache=cache) for t in range(17, 30)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_joined_rows_go_on_as_if_they_were_alone(decoder: Decoder):
    fold_heads(decoder.model)
    lengths, more = [5, 19, 11], 6
    rows = [decoder.embed(torch.randint(0, 400, (1, length + more))) for length in lengths]
    whole = [decoder.hidden(row) for row in rows]
    caches = [decoder.cache(30) for _ in rows]
    for row, length, cache in zip(rows, lengths, caches, strict=True):
        decoder.hidden(row[:, :length], cache=cache)
    batch = decoder.cache(30)
    batch.join(caches)
    kept = [0, 1, 2]
    for step in range(more):
        if step == 3:  # the longest row leaves, and with it the padding that it made
            kept = [0, 2]
            batch.keep(kept, drop=19 - 11)
        positions = torch.tensor([[lengths[i] + step] for i in kept])
        longest = int(positions.max())
        mask = (torch.arange(longest + 1) >= longest - positions).long()
        embeds = torch.cat([rows[i][:, lengths[i] + step][:, None] for i in kept])
        states = decoder.hidden(embeds, mask, positions, batch)
        for state, i in zip(states, kept, strict=True):
            torch.testing.assert_close(state[0], whole[i][0, lengths[i] + step], atol=1e-5, rtol=0)


def test_a_layer_that_cannot_be_kept_by_position_is_refused(tiny_tokenizer):
    decoder = decoder_of(LlamaConfig(**COMMON), tiny_tokenizer)
    decoder.model.config.layer_types = ["full_attention", "linear_attention", "full_attention"]
    with pytest.raises(UnsupportedModel, match="linear_attention"):
        decoder.cache(8)
