"""Any encoder of Hugging Face: its states are its own, and a reader that has one is whole in its folder."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    CanineTokenizer,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
)

from preread.core.errors import IntegrityError, UnknownModel, UnsupportedModel, UsageError
from preread.core.types import Passage, TextBatch
from preread.methods.cepe.borrowed import BorrowedConfig
from preread.methods.cepe.method import Cepe
from preread.methods.cepe.own import OwnEncoderConfig
from preread.methods.cepe.reader import Reader, ReaderConfig

TEXTS = ("The keeper of the lighthouse wrote.", "In winter the storm reached the island at night. " * 3, "x")


@pytest.fixture
def folder(tmp_path, tiny_tokenizer):
    config = BertConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=16,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(tmp_path / "bert")
    tiny_tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def handle(folder, tiny_decoder):
    shape = ReaderConfig(borrowed=BorrowedConfig(str(folder), chunk=64, together=2))
    with Cepe(fresh=True, shape=shape).attach(tiny_decoder("llama")) as handle:
        for module in handle.reader.crossings.modules_by_layer.values():
            torch.nn.init.constant_(module.gate, 0.5)
        yield handle


@torch.no_grad()
def test_states_are_the_encoders_own_in_pieces_that_it_can_read(handle, folder):
    decoder, tokenizer = handle.decoder, handle.reader.encoder.tokenizer
    chunks = [decoder.tokens(text) for text in TEXTS]
    bert = BertModel.from_pretrained(folder).eval()
    for chunk, states in zip(chunks, handle.reader.encoder.eval()(chunks), strict=True):
        ids = torch.tensor(tokenizer(decoder.tokenizer.decode(chunk))["input_ids"])
        expected = torch.cat([bert(piece[None]).last_hidden_state[0] for piece in torch.split(ids, 16)])
        torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)
    assert handle.reader.crossings.modules_by_layer["0"].shape.states == 20


def test_it_trains_with_the_reader_and_is_whole_in_its_folder(handle, folder, tmp_path):
    objective = handle.objective("lm", near=16, hidden=0.0)
    objective(TextBatch(torch.randint(5, 300, (2, 60)), 0))["lm"].backward()
    grads = {name: p.grad for name, p in handle.reader.encoder.named_parameters() if "pooler" not in name}
    assert all(grad is not None and grad.abs().max() > 0 for grad in grads.values())
    objective.settle()
    objective.save(tmp_path / "reader", {})
    shutil.rmtree(folder)
    passage = Passage("d", 0, tuple(handle.decoder.tokens(TEXTS[0]).tolist()), 0, 1, "", "", 0)
    with Cepe(weights=tmp_path / "reader").attach(handle.decoder) as again:
        one, other = (next(iter(some.encode([passage]))).tensors["states"] for some in (handle, again))
        assert torch.equal(one, other)
        assert again.reader.hash == handle.reader.hash


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_another_config_or_tokenizer_under_the_same_weights_is_damage(handle, tmp_path, name):
    handle.reader.settle()
    handle.reader.save(tmp_path / "reader", {})
    Reader.load(tmp_path / "reader", handle.decoder)
    file = tmp_path / "reader" / "borrowed" / name
    file.write_text(file.read_text() + " ")
    with pytest.raises(IntegrityError, match=f"{name} is not the one"):
        Reader.load(tmp_path / "reader", handle.decoder)
    file.unlink()
    with pytest.raises(IntegrityError, match=name):
        Reader.load(tmp_path / "reader", handle.decoder)


def test_what_is_no_encoder_and_what_it_cannot_learn_is_refused(handle, tmp_path, tiny_decoder):
    with pytest.raises(UsageError, match="mlm out"):
        handle.objective("mlm")(TextBatch(torch.randint(5, 300, (1, 60)), 0))
    (tmp_path / "empty").mkdir()
    for name, error in (("empty", UnknownModel), ("bert", UnsupportedModel)):
        if name == "bert":
            (tmp_path / "bert" / "model.safetensors").unlink()
        shape = ReaderConfig(borrowed=BorrowedConfig(str(tmp_path / name)))
        with pytest.raises(error):
            Cepe(fresh=True, shape=shape).attach(tiny_decoder("llama"))


def _saved(folder, model, tokenizer, **changed):
    """Both in a folder, whose tokenizer says other things."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    return BorrowedConfig(str(folder), chunk=64, together=3)


SIZES = {"vocab_size": 400, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
UNTOLD = int(1e30)
"""What a tokenizer says that was not told how much its model reads at once."""
KINDS = {
    "positions from behind the filling one's": (RobertaModel, RobertaConfig(**SIZES, max_position_embeddings=18), {}),
    "nothing to fill rows up with": (
        DistilBertModel,
        DistilBertConfig(vocab_size=400, dim=24, n_layers=1, n_heads=2, hidden_dim=8, max_position_embeddings=16),
        {"pad_token": None},
    ),
    "no types of tokens": (
        ModernBertModel,
        ModernBertConfig(**SIZES, max_position_embeddings=16, pad_token_id=0, cls_token_id=1, sep_token_id=2),
        {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]},
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_whatever_an_encoder_is_like_a_chunk_is_as_alone(kind, dtype, tmp_path, tiny_decoder, tiny_tokenizer):
    of, config, changed = KINDS[kind]
    shape = _saved(tmp_path / "encoder", of(config), tiny_tokenizer, model_max_length=UNTOLD, **changed)
    decoder = tiny_decoder("llama")
    decoder.model.to(dtype)
    reader = Reader(decoder, ReaderConfig(borrowed=shape)).eval()
    chunks = [*map(decoder.tokens, TEXTS), torch.tensor(tiny_tokenizer.all_special_ids)]
    together = reader.encoder(chunks)
    for chunk, states in zip(chunks, together, strict=True):
        torch.testing.assert_close(reader.encoder([chunk])[0], states, atol=1e-5, rtol=0)
        assert states.isfinite().all()
    assert len(together[1]) > 16, "read in pieces"
    assert together[-1].shape == (0, 24), "without text there is nothing to tell"
    assert {states.dtype for states in together} == {dtype}


NONE = {
    "decoder behind it": lambda: T5EncoderModel(T5Config(vocab_size=400, d_model=24, d_kv=12, d_ff=8, num_layers=1)),
    "to a table of 100": lambda: BertModel(BertConfig(**{**SIZES, "vocab_size": 100})),
    "reads 0 tokens": lambda: BertModel(BertConfig(**SIZES)),
    "CanineTokenizer": lambda: BertModel(BertConfig(**SIZES)),
}


@pytest.mark.parametrize("why", NONE)
def test_what_could_not_be_read_with_is_refused_at_once(why, tmp_path, tiny_decoder, tiny_tokenizer):
    tokenizer = CanineTokenizer() if why == "CanineTokenizer" else tiny_tokenizer
    shape = _saved(tmp_path / "encoder", NONE[why](), tokenizer, **{"model_max_length": 0} if "reads 0" in why else {})
    with pytest.raises(UnsupportedModel, match=why):
        Reader(tiny_decoder(), ReaderConfig(borrowed=shape))


@pytest.mark.parametrize("wrong", [{"chunk": 0}, {"together": 0}], ids=str)
def test_chunks_of_nothing_are_refused(wrong, folder, tiny_decoder):
    with pytest.raises(UsageError, match="at least 1"):
        Reader(tiny_decoder(), ReaderConfig(borrowed=BorrowedConfig(str(folder), **wrong)))


def test_two_encoders_are_one_too_many(folder):
    with pytest.raises(UsageError, match="both"):
        ReaderConfig(own=OwnEncoderConfig(), borrowed=BorrowedConfig(str(folder)))
