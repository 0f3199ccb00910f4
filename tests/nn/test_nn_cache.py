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

from preread.core.errors import ResourceError, UnsupportedModel
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
        fold_heads(decoder)
    embeds = decoder.embed(torch.randint(0, 400, (1, 30)))
    whole = decoder.hidden(embeds)
    cache = decoder.cache(30)
    pieces = [decoder.hidden(embeds[:, :12], cache=cache), decoder.hidden(embeds[:, 12:17], cache=cache)]
    pieces += [decoder.hidden(embeds[:, t : t + 1], cache=cache) for t in range(17, 30)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=0)


class Slotted:
    """Rows in one slot cache under random events, each held against its own uncached forward pass."""

    def __init__(self, decoder: Decoder, seed: int) -> None:
        self.decoder, self.draw = decoder, torch.Generator().manual_seed(seed)
        self.cache, self.live = decoder.cache(4), []  # for each slot: embeds, all states, how many are read

    def pick(self, low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=self.draw))

    def enter(self) -> None:
        """A new row in the first free slot, in pieces."""
        embeds = self.decoder.embed(torch.randint(0, 400, (1, self.pick(20, 40)), generator=self.draw))
        length, slot = self.pick(1, 18), len(self.live)
        self.cache.reserve(slot + 1, embeds.shape[1])
        whole = self.decoder.hidden(embeds)
        for piece in torch.split(embeds[:, :length], self.pick(1, 10), 1):
            self.cache.at(slot)
            last = self.decoder.hidden(piece, cache=self.cache)[0, -1]
        torch.testing.assert_close(last, whole[0, length - 1], atol=1e-5, rtol=0)
        self.live.append([embeds, whole, length])

    def write(self) -> None:
        """One more position of every row; those at their end leave."""
        lengths = [read for _, _, read in self.live]
        self.cache.at(0, len(self.live))
        embeds = torch.cat([row[0][:, row[2]][:, None] for row in self.live])
        mask = self.decoder.ragged_mask(lengths) if len(set(lengths)) > 1 else None
        states = self.decoder.hidden(embeds, mask, torch.tensor(lengths)[:, None], self.cache)
        for state, row in zip(states, self.live, strict=True):
            torch.testing.assert_close(state[0], row[1][0, row[2]], atol=1e-5, rtol=0)
            row[2] += 1
        for slot in reversed(range(len(self.live))):
            if self.live[slot][2] == self.live[slot][0].shape[1]:
                self.leave(slot)

    def leave(self, slot: int) -> None:
        """A row goes; the last takes its slot, as in the engine."""
        self.cache.cut(slot, 0)
        if slot != len(self.live) - 1:
            self.cache.move(len(self.live) - 1, slot)
            self.live[slot] = self.live[-1]
        self.live.pop()

    def again(self) -> None:
        """The last positions of a row are forgotten, to be read once more."""
        row = self.live[slot := self.pick(0, len(self.live))]
        row[2] = self.pick(1, row[2] + 1)
        self.cache.cut(slot, row[2])


@pytest.mark.parametrize("seed", range(4))
@torch.inference_mode()
def test_rows_come_and_go_as_if_each_were_alone(decoder: Decoder, seed: int):
    fold_heads(decoder)
    rows = Slotted(decoder, seed)
    rows.enter()
    for _ in range(60):
        event = rows.pick(0, 10)
        if not rows.live or (event < 2 and len(rows.live) < 4):
            rows.enter()
        elif event == 2:
            rows.leave(rows.pick(0, len(rows.live)))
        elif event == 3:
            rows.again()
        else:
            rows.write()


@torch.inference_mode()
def test_what_a_gone_row_left_cannot_reach_another(decoder: Decoder):
    """Not even through a mask: zero times NaN is NaN."""
    fold_heads(decoder)
    cache = decoder.cache(30, slots=2)
    rows = decoder.embed(torch.randint(0, 400, (2, 20)))
    cache.at(1)
    decoder.hidden(torch.full_like(rows[:1, :15], float("nan")), cache=cache)
    cache.cut(1, 0)
    for slot, length in ((0, 19), (1, 4)):
        cache.at(slot)
        decoder.hidden(rows[slot : slot + 1, :length], cache=cache)
    cache.at(0, 2)
    last = torch.stack([rows[0, 19], rows[1, 4]])[:, None]
    states = decoder.hidden(last, decoder.ragged_mask([19, 4]), torch.tensor([[19], [4]]), cache)
    for i, length in enumerate((20, 5)):
        alone = decoder.hidden(rows[i : i + 1, :length])
        torch.testing.assert_close(states[i, 0], alone[0, -1], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_pass_that_fails_halfway_leaves_nothing_behind(decoder: Decoder, monkeypatch):
    embeds = decoder.embed(torch.randint(0, 400, (1, 12)))
    whole, cache = decoder.hidden(embeds), decoder.cache(12)
    decoder.hidden(embeds[:, :7], cache=cache)
    with monkeypatch.context() as patch:
        patch.setattr(cache.layers[1], "update", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            decoder.hidden(embeds[:, 7:], cache=cache)
    assert cache.get_seq_length() == 7
    torch.testing.assert_close(decoder.hidden(embeds[:, 7:], cache=cache), whole[:, 7:], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_copied_positions_stand_in_for_reading_them(decoder: Decoder):
    embeds = decoder.embed(torch.randint(0, 400, (1, 20)))
    cache, other = decoder.cache(20), decoder.cache(20, slots=3)
    whole = decoder.hidden(embeds, cache=cache)
    held = cache.copy(0, 13)
    other.at(2)
    other.paste(held)
    assert torch.equal(other.layers[1].keys, cache.layers[1].keys[:, :, :13])
    assert held.nbytes == sum(2 * layer.values[:, :, :13].nbytes for layer in cache.layers)
    torch.testing.assert_close(decoder.hidden(embeds[:, 13:], cache=other), whole[:, 13:], atol=1e-5, rtol=0)


def test_too_little_memory_is_said_and_rows_go_on(decoder: Decoder):
    cache, embeds = decoder.cache(8), decoder.embed(torch.randint(0, 400, (1, 6)))
    whole = decoder.hidden(embeds)
    decoder.hidden(embeds[:, :4], cache=cache)
    with pytest.raises(ResourceError, match="4000000000000 positions"):
        cache.reserve(2, 4 * 10**12)
    torch.testing.assert_close(decoder.hidden(embeds[:, 4:], cache=cache), whole[:, 4:], atol=1e-5, rtol=0)


def test_a_layer_that_cannot_be_kept_by_position_is_refused(tiny_tokenizer):
    decoder = decoder_of(LlamaConfig(**COMMON), tiny_tokenizer)
    decoder.model.config.layer_types = ["full_attention", "linear_attention", "full_attention"]
    with pytest.raises(UnsupportedModel, match="linear_attention"):
        decoder.cache(8)
