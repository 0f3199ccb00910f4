"""Any encoder of Hugging Face: its states are its own, and a reader that has one is whole in its folder."""

from __future__ import annotations

import shutil

import pytest
import torch
from transformers import BertConfig, BertModel

from preread.core.errors import UnknownModel, UnsupportedModel, UsageError
from preread.core.types import Passage, TextBatch
from preread.methods.cepe.borrowed import BorrowedConfig
from preread.methods.cepe.method import Cepe
from preread.methods.cepe.reader import ReaderConfig

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
