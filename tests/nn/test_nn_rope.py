"""Stretched windows: the rules are transformers' own to float precision, and nothing of them stays behind."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from preread.core.errors import UnsupportedModel, UsageError
from preread.models.fingerprint import fingerprint
from preread.nn.hf import Decoder
from preread.nn.lora import Lora, LoraConfig
from preread.nn.rope import RULES, Linear, LongRope, Ntk, Rope, Rule, Yarn, rope_of, stretched

FACTORS = (1.0, 1.5, 2.0, 4.0, 32.0)
SHAPES = [(16, 10_000.0, 2048), (64, 10_000.0, 4096), (64, 100_000.0, 8192), (128, 500_000.0, 8192), (128, 1e6, 32_768)]
"""Width of a head, base, window: tiny, Llama 2's and SmolLM2's kind, Llama 3's, Qwen's."""


def theirs(
    width: int, theta: float, window: int, parameters: dict, at: int | None = None
) -> tuple[torch.Tensor, float]:
    """Frequencies and scaling by transformers."""
    kind = parameters["rope_type"]
    config = LlamaConfig(
        hidden_size=width * 2,
        num_attention_heads=2,
        max_position_embeddings=window,
        rope_parameters={"rope_theta": theta, **parameters},
    )
    found, scaling = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=at)
    return found, scaling


def plain(width: int, theta: float, window: int) -> Rope:
    return Rope(1.0 / theta ** (torch.arange(0, width, 2).float() / width), theta, window)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factor", FACTORS)
def test_the_rules_are_those_of_transformers(shape: tuple[int, float, int], factor: float) -> None:
    rope = plain(*shape)
    expected = {
        Linear: theirs(*shape, {"rope_type": "linear", "factor": factor}),
        # at factor * window positions `dynamic` multiplies the base by 1 * factor - 0
        Ntk: theirs(*shape, {"rope_type": "dynamic", "factor": 1.0}, int(factor * rope.window)),
        Yarn: theirs(*shape, {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": rope.window}),
    }
    for rule, (frequencies, scaling) in expected.items():
        torch.testing.assert_close(rule(factor).frequencies(rope), frequencies, rtol=2e-6, atol=0)
        assert rule(factor).scaling(rope) == pytest.approx(scaling, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("at", [None, 1_000_000], ids=["short", "long"])
@pytest.mark.parametrize("given", [False, True], ids=["closed form", "given"])
def test_longrope_is_that_of_transformers_for_short_and_long_prompts(shape, factor, at, given) -> None:
    rope = plain(*shape)
    pairs = len(rope.frequencies)
    rule = LongRope(factor, tuple(1 + i * factor / pairs for i in range(pairs)) if given else None)
    expected, scaling = theirs(*shape, rule.parameters(rope), at)
    torch.testing.assert_close(rule.frequencies(rope), expected, rtol=2e-6, atol=0)
    assert rule.scaling(rope) == pytest.approx(scaling, rel=1e-12)


def test_longropes_closed_form_leaves_yarns_fast_pairs_and_slows_those_between_more() -> None:
    rope = plain(64, 10_000.0, 4096)
    yarn, own = (rope.frequencies / rule(8).frequencies(rope) for rule in (Yarn, LongRope))
    assert torch.equal(own == 1, yarn == 1)
    assert torch.equal(own.round(decimals=3) == 8, yarn.round(decimals=3) == 8)
    between = (yarn > 1.001) & (yarn < 7.999)
    assert between.sum() > 5
    assert bool((own[between] > yarn[between]).all())
    assert bool((own.diff() >= 0).all())


@pytest.mark.parametrize(
    ("factors", "says"), [((0.5,) * 32, "0.5"), ((2.0,) * 31, "31"), ((float("nan"),) * 32, "nan")]
)
def test_factors_that_make_no_sense_are_refused(factors: tuple[float, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        LongRope(4, factors).frequencies(plain(64, 10_000.0, 4096))


@pytest.mark.parametrize("rule", RULES.values())
def test_a_factor_of_one_changes_no_bit(rule: type[Rule]) -> None:
    for shape in SHAPES:
        rope = plain(*shape)
        assert torch.equal(rule(1).frequencies(rope), rope.frequencies)
        assert rule(1).scaling(rope) == 1.0


def test_ntk_keeps_the_fastest_pair_and_interpolates_the_slowest() -> None:
    rope = plain(64, 10_000.0, 4096)
    slower = rope.frequencies / Ntk(8).frequencies(rope)
    assert slower[0] == 1
    assert float(slower[-1]) == pytest.approx(8, rel=1e-6)
    assert bool((slower.diff() > 0).all())


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma"])
@pytest.mark.parametrize("rule", [Linear(4), Ntk(4), Yarn(4), LongRope(4)], ids=lambda rule: rule.name)
def test_inside_the_block_the_window_is_larger_and_behind_it_nothing_has_changed(tiny_decoder, family, rule) -> None:
    decoder = tiny_decoder(family)
    ids = torch.arange(64) % 300 + 3
    before, made_of, window = _logits(decoder, ids), fingerprint(decoder.model, decoder.tokenizer), decoder.window
    config = copy.deepcopy(decoder.model.config)
    with stretched(decoder, rule) as view:
        assert view.window == decoder.window == window * 4
        assert not torch.equal(_logits(view, ids), before)
        assert view.fingerprint != decoder.fingerprint
        assert fingerprint(view.model, view.tokenizer) != made_of
    assert torch.equal(_logits(decoder, ids), before)
    assert decoder.window == window
    assert decoder.model.config == config
    assert fingerprint(decoder.model, decoder.tokenizer) == made_of


def test_an_error_inside_the_block_leaves_nothing_behind(tiny_decoder) -> None:
    decoder = tiny_decoder()
    rope = rope_of(decoder)
    with pytest.raises(RuntimeError, match="inside"), stretched(decoder, Yarn(2)):
        raise RuntimeError("inside")
    after = rope_of(decoder)
    assert after.frequencies is rope.frequencies
    assert (after.theta, after.window) == (rope.theta, rope.window)


def test_the_view_reads_with_the_adapters_of_the_decoder(tiny_decoder) -> None:
    decoder, ids = tiny_decoder(), torch.arange(40) + 3
    lora = decoder.adapters.add("a", Lora(LoraConfig(rank=2), decoder.adapters.layers))
    torch.nn.init.ones_(next(iter(lora.b.values())))
    with stretched(decoder, Ntk(2)) as view:
        bare = _logits(view, ids)
        with view.adapters.use("a"):
            assert not torch.equal(_logits(view, ids), bare)


@pytest.mark.parametrize("rule", [Linear(2), Ntk(2), Yarn(2), LongRope(2)], ids=lambda rule: rule.name)
def test_a_model_saved_inside_the_block_loads_stretched_anywhere(tiny_decoder, tmp_path, rule) -> None:
    decoder, ids = tiny_decoder(), torch.arange(64) + 3
    with stretched(decoder, rule) as view:
        expected = _logits(view, ids)
        view.model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    found = Decoder(loaded, decoder.tokenizer, "loaded", "")
    assert found.window == 2 * decoder.window
    torch.testing.assert_close(_logits(found, ids), expected, rtol=1e-4, atol=1e-5)


def test_heads_of_which_a_part_turns_are_saved_as_such(tiny_tokenizer, tmp_path) -> None:
    from transformers import GlmConfig

    config = GlmConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        partial_rotary_factor=0.25,  # 0.5 is what a config that says nothing means
        max_position_embeddings=256,
        pad_token_id=0,
    )
    decoder = Decoder(AutoModelForCausalLM.from_config(config), tiny_tokenizer, "tiny-glm", "")
    with stretched(decoder, Yarn(2)) as view:
        expected = _logits(view, torch.arange(64) + 3)
        view.model.save_pretrained(tmp_path)
    found = Decoder(AutoModelForCausalLM.from_pretrained(tmp_path), tiny_tokenizer, "loaded", "")
    torch.testing.assert_close(_logits(found, torch.arange(64) + 3), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [0.5, 0, -1, float("inf"), float("nan")])
def test_a_senseless_factor_is_refused(factor: float) -> None:
    with pytest.raises(UsageError, match="factor"):
        Yarn(factor)


def test_scaled_positions_are_not_scaled_again(tiny_decoder) -> None:
    decoder = tiny_decoder()
    decoder.model.config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}
    with pytest.raises(UnsupportedModel, match="linear"), stretched(decoder, Ntk(2)):
        pass


def test_a_rope_for_each_kind_of_layer_is_refused(tiny_tokenizer) -> None:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=256,
    )
    decoder = Decoder(Gemma3ForCausalLM(config), tiny_tokenizer, "tiny-gemma3", "")
    with pytest.raises(UnsupportedModel, match="each kind of layer"), stretched(decoder, Yarn(2)):
        pass


@torch.inference_mode()
def _logits(decoder: Decoder, ids: torch.Tensor) -> torch.Tensor:
    return decoder.logits(decoder.hidden(decoder.embed(ids)[None])[0])


@pytest.mark.parametrize(("before", "after"), [(50, 57), (1500, 4099), (32000, 57000), (8192, 32768)])
def test_the_new_window_is_the_length_that_was_asked_for(before, after) -> None:
    assert Linear(after / before).window(before) == after
