"""`attach` and `detach` on whole decoders: what attends sparsely and when, and that everything else is as before."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    Gemma3TextConfig,
    GptOssConfig,
    MistralConfig,
    Qwen3Config,
    T5Config,
    T5ForConditionalGeneration,
)

from preread.bench.s2 import layouts, model_leaks, small_llama
from preread.core.errors import UnsupportedModel, UsageError
from preread.methods.longlora import attach, detach
from preread.nn.activations import Levers, frugal

GROUP = 16
FAMILIES = ("llama", "qwen2", "gemma")


@pytest.fixture(params=FAMILIES)
def model(tiny_decoder, request):
    return tiny_decoder(request.param).model.eval()


def _checkpointing(model):
    """Transformers' own, by the name that this version of it has."""
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})


def _ids(rows=2, length=61, seed=0):
    return torch.randint(3, 300, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layout", layouts())
def test_nothing_leaks_in_training_with_checkpointing(model, layout):
    assert model_leaks(model, layouts()[layout], GROUP) == 0


@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 1), (5, 5), (9, 3)])
def test_odd_heads_do_not_leak(heads, kv_heads):
    assert model_leaks(small_llama(heads, kv_heads), layouts()["padded"], GROUP) == 0


def _logits(model, ids, **inputs):
    with torch.no_grad():
        return model(ids, use_cache=False, **inputs).logits


def test_packed_and_padded_documents_are_each_as_alone(model):
    ids = _ids(1, 61)[0]
    packed, padded = layouts()["packed"], layouts()["padded"]
    attach(model, group=GROUP, full_below=0)
    model.train()
    alone = torch.cat([_logits(model, piece[None])[0] for piece in ids.split(packed.documents)])
    torch.testing.assert_close(_logits(model, ids[None], **packed.inputs)[0], alone, atol=1e-5, rtol=0)
    rows = _ids(2, 40)
    together = _logits(model, rows, **padded.inputs)
    for row, real in zip(range(2), padded.inputs["attention_mask"].bool(), strict=True):
        alone = _logits(model, rows[row, real][None])[0]
        torch.testing.assert_close(together[row, real], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["llama", "qwen2"])  # half of tiny Gemma's layers have a window and keep it
def test_without_the_shift_groups_are_strangers(tiny_decoder, family):
    model, ids = tiny_decoder(family).model.eval(), _ids(1, 4 * GROUP)
    positions = torch.arange(4 * GROUP)[None]
    attach(model, group=GROUP, full_below=0, shifted=False)
    model.train()
    pieces = zip(ids.split(GROUP, 1), positions.split(GROUP, 1), strict=True)
    apart = torch.cat([_logits(model, piece, position_ids=where) for piece, where in pieces], 1)
    torch.testing.assert_close(_logits(model, ids), apart, atol=1e-5, rtol=0)
    detach(model)
    attach(model, group=GROUP, full_below=0)
    assert (_logits(model, ids) - apart)[:, GROUP:].abs().max() > 1e-3


def test_outside_training_the_model_is_itself_bit_for_bit(model):
    ids, mask = _ids(), torch.ones(2, 61, dtype=torch.int64)
    mask[0, :9] = 0
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    before = _logits(model, ids, attention_mask=mask), model.generate(ids, attention_mask=mask, **settings)
    attach(model, group=GROUP, full_below=0)
    assert torch.equal(_logits(model, ids, attention_mask=mask), before[0])
    assert torch.equal(model.generate(ids, attention_mask=mask, **settings), before[1])
    model.train()
    assert not torch.equal(_logits(model, ids, attention_mask=mask), before[0])
    detach(model)
    assert torch.equal(_logits(model.eval(), ids, attention_mask=mask), before[0])


def test_a_cache_is_attended_to_in_full(tiny_decoder):
    """In training mode too, and where sparse reading was asked for: only what is read at once is divided."""
    model = tiny_decoder("llama").model
    ids = _ids(1, 48)
    with torch.no_grad():
        cache = model(ids[:, :40], use_cache=True).past_key_values
        before = model(ids[:, 40:], past_key_values=copy.deepcopy(cache)).logits
        attach(model, group=GROUP, full_below=0, inference=True)
        assert torch.equal(model(ids[:, 40:], past_key_values=copy.deepcopy(cache)).logits, before)


def test_sparse_reading_is_an_option(tiny_decoder):
    model, ids = tiny_decoder("llama").model.eval(), _ids(1)
    attach(model, group=GROUP, full_below=0)
    model.train()
    sparse = _logits(model, ids)
    detach(model.eval())
    full = _logits(model, ids)
    attach(model, group=GROUP, full_below=0, inference=True)
    assert torch.equal(_logits(model, ids), sparse)
    assert (sparse - full).abs().max() > 1e-3


def test_documents_up_to_the_window_are_read_in_full(tiny_decoder):
    model, ids = tiny_decoder("llama").model.eval(), _ids(1, 64)
    model.config.max_position_embeddings = 32
    short, long = _logits(model, ids[:, :32]), _logits(model, ids)
    attach(model, length=128)
    model.train()
    torch.testing.assert_close(_logits(model, ids[:, :32]), short, atol=1e-5, rtol=0)
    assert (_logits(model, ids) - long).abs().max() > 1e-3


def test_the_group_is_of_the_trained_length_and_never_below_the_window(tiny_decoder):
    """A batch's own length decides nothing: the first quarter of a row is as it is in a shorter row."""
    model = tiny_decoder("llama").model
    model.config.max_position_embeddings = 16
    attach(model, length=128)  # groups of 32
    model.train()
    ids = _ids(1, 128)
    torch.testing.assert_close(_logits(model, ids)[:, :70], _logits(model, ids[:, :70]), atol=1e-5, rtol=0)
    changed = ids.clone()
    changed[0, 0] += 1
    reached = (_logits(model, changed) != _logits(model, ids)).any(-1)[0].nonzero().max()
    detach(model)
    attach(model, length=32)  # a quarter would be 8: groups of 16, the window
    model.train()
    nearer = (_logits(model, changed[:, :64]) != _logits(model, ids[:, :64])).any(-1)[0].nonzero().max()
    # Two layers: a token reaches its own group, and what a moved group carries on from there.
    assert int(reached) == 32 + 16 - 1
    assert int(nearer) == 16 + 8 - 1


@pytest.mark.parametrize("checkpointing", ["ours", "transformers"])
def test_gradients_are_those_without_checkpointing(model, checkpointing):
    ids, found = _ids(), []
    model.requires_grad_(True)
    attach(model, group=GROUP, full_below=0)
    for checkpointed, interrupted in ((False, False), (True, False), (True, True)):
        model.zero_grad()
        with frugal(model.train(), Levers("full" if checkpointed and checkpointing == "ours" else "none")):
            if checkpointed and checkpointing == "transformers":
                _checkpointing(model)
            loss = model(ids, labels=ids, use_cache=False).loss
            if interrupted:
                model.eval()  # as a callback between the two passes may do
            loss.backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-6, rtol=1e-4)


def test_detaching_leaves_nothing_behind(tiny_decoder):
    model = tiny_decoder("llama").model
    tables = [interface._global_mapping for interface in (AttentionInterface, AttentionMaskInterface)]
    before = model.config._attn_implementation, [set(table) for table in tables]
    detach(model)  # of what is not attached: nothing happens
    attach(model, group=GROUP)
    assert model.config._attn_implementation != before[0]
    detach(model)
    assert (model.config._attn_implementation, [set(table) for table in tables]) == before


def test_two_models_do_not_mix(tiny_decoder):
    one, other = tiny_decoder("llama").model.eval(), tiny_decoder("llama", seed=1).model.eval()
    ids = _ids()
    before = _logits(other, ids)
    attach(one, group=GROUP, full_below=0)
    attach(other, group=2 * GROUP, full_below=0)
    one.train()
    assert torch.equal(_logits(other, ids), before)
    detach(one)
    assert torch.equal(_logits(other, ids), before)


def test_layers_with_a_window_keep_it():
    """A decoder of sliding layers beside full ones: those with a window attend as before, to the bit."""
    config = Gemma3TextConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
        initializer_range=0.2,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    ids, outputs = _ids(1, 64), []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda _, __, out: outputs.append(out[0] if isinstance(out, tuple) else out))
    _logits(model, ids)
    attach(model, group=GROUP, full_below=0)
    model.train()
    _logits(model, ids)
    windowed, full, windowed_after, full_after = outputs
    assert torch.equal(windowed_after, windowed)
    assert not torch.equal(full_after, full)


TINY = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def _made(config):
    return AutoModelForCausalLM.from_config(config)


def test_newer_families_need_nothing_of_their_own():
    config = Qwen3Config(**TINY, num_key_value_heads=1, intermediate_size=16, head_dim=8, initializer_range=0.2)
    model = _made(config).eval()
    assert model_leaks(model, replace(layouts()["packed"]), group=8) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: BertModel(BertConfig(**TINY, intermediate_size=16)),
        lambda: T5ForConditionalGeneration(T5Config(vocab_size=50, d_model=16, num_layers=1, num_heads=2, d_ff=16)),
    ],
    ids=["encoder", "encoder and decoder"],
)
def test_what_is_no_decoder_is_refused(make):
    model = make()
    with pytest.raises(UnsupportedModel, match=r"causally|interface"):
        attach(model, group=4)
    detach(model)


def test_layers_with_sinks_are_refused():
    config = GptOssConfig(
        **TINY,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=16,
        num_local_experts=2,
        num_experts_per_tok=1,
        layer_types=["full_attention"] * 2,
    )
    model = _made(config)
    attach(model, group=4, full_below=0)
    model.train()
    with pytest.raises(UnsupportedModel, match="sinks"):
        model(torch.randint(0, 50, (1, 32)))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "length that will be trained"),
        ({"length": 64}, "beyond the window"),
        ({"length": 64, "group": 16}, "beyond the window"),
        ({"group": 7}, "even group"),
        ({"group": 0, "length": 8192}, "even group"),
        ({"group": 8192, "length": 8192}, "below the length"),
    ],
)
def test_what_cannot_be_right_is_refused(tiny_decoder, arguments, match):
    model = tiny_decoder("llama").model
    before = model.config._attn_implementation
    with pytest.raises(UsageError, match=match):
        attach(model, **arguments)
    assert model.config._attn_implementation == before


def test_a_second_attach_is_refused(tiny_decoder):
    model = tiny_decoder("llama").model
    attach(model, group=4)
    with pytest.raises(UsageError, match="attached already"):
        attach(model, group=4)


def test_a_dense_mask_is_refused_and_not_ignored(tiny_decoder):
    model = tiny_decoder("llama").model
    attach(model, group=GROUP, full_below=0)
    model.train()
    mask = torch.zeros(1, 1, 32, 32)
    with pytest.raises(UnsupportedModel, match=r"\[B, 1, T, T\]"):
        model(_ids(1, 32), attention_mask=mask)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # peft's and TRL's own calls
def test_a_model_wrapped_by_peft_is_attached_as_it_is(tiny_decoder):
    from peft import LoraConfig, get_peft_model

    base = tiny_decoder("llama").model
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj", "v_proj"]))
    attach(model, group=GROUP, full_below=0)
    ids = _ids(1)
    model.train()
    sparse = _logits(model, ids)
    full = _logits(model.eval(), ids)
    assert (sparse - full).abs().max() > 1e-3
    with pytest.raises(UsageError, match="attached already"):
        attach(base, group=GROUP)
    detach(model)
    assert torch.equal(_logits(model.train(), ids), full)  # no dropout: only attention could differ


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_what_was_attached_bare_is_detached_wrapped(tiny_decoder):
    from peft import LoraConfig, get_peft_model

    base, ids = tiny_decoder("llama").model, _ids(1)
    full = _logits(base.eval(), ids)
    attach(base, group=GROUP, full_below=0)
    wrapped = get_peft_model(base, LoraConfig(target_modules=["q_proj"]))
    detach(wrapped)
    torch.testing.assert_close(_logits(wrapped.train(), ids), full, atol=1e-5, rtol=0)


def test_a_decoder_of_windows_alone_is_refused():
    config = MistralConfig(**TINY, num_key_value_heads=1, intermediate_size=16, head_dim=8, sliding_window=8)
    with pytest.raises(UnsupportedModel, match="sliding_attention"):
        attach(_made(config), group=4)
    config.sliding_window = None
    attach(_made(config), group=4)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_with_the_trainer_of_transformers(tiny_decoder, tmp_path):
    from transformers import Trainer, TrainingArguments

    model = tiny_decoder("llama").model
    model.config.max_position_embeddings = 32
    attach(model.requires_grad_(True), length=128)
    rows = [{"input_ids": row, "labels": row} for row in _ids(8, 128) % 20]
    settings = TrainingArguments(
        output_dir=str(tmp_path), max_steps=8, learning_rate=1e-2, per_device_train_batch_size=2,
        gradient_checkpointing=True, report_to=[], save_strategy="no", logging_steps=1, use_cpu=True,
    )  # fmt: skip
    trainer = Trainer(model, settings, train_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.5
    detach(model)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("free", [False, True], ids=["padded", "padding-free"])
def test_with_trl(tiny_decoder, tmp_path, free):
    """Packed by TRL, which tells documents apart by positions; each is read as alone."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    decoder = tiny_decoder("llama")
    model = decoder.model
    model.config.max_position_embeddings = 32
    attach(model.requires_grad_(True), length=128)
    texts = Dataset.from_list(
        [{"text": "The keeper wrote down every ship that passed. " * n} for n in (3, 9, 5, 8, 4, 7)]
    )
    settings = SFTConfig(
        output_dir=str(tmp_path), max_steps=6, learning_rate=1e-2, per_device_train_batch_size=2, max_length=128,
        packing=free, padding_free=free, report_to=[], save_strategy="no", logging_steps=1, use_cpu=True, bf16=False,
    )  # fmt: skip
    trainer = SFTTrainer(model, args=settings, train_dataset=texts, processing_class=decoder.tokenizer)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.5
    detach(model)
