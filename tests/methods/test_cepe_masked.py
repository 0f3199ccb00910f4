"""The `mlm` stage: what is blanked out is not seen, counts as it should, and an encoder learns it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from preread.core.types import MEMORY, TextBatch
from preread.methods.cepe.encoder import EncoderConfig
from preread.methods.cepe.method import Cepe
from preread.methods.cepe.own import OwnEncoderConfig
from preread.methods.cepe.reader import ReaderConfig

SHAPES = {
    "bottom": ReaderConfig(EncoderConfig(1, chunk=16)),
    "own": ReaderConfig(
        own=OwnEncoderConfig(vocabulary=400, width=24, layers=1, heads=2, kv_heads=2, inner=32, chunk=16)
    ),
}


@pytest.fixture(params=SHAPES)
def handle(request, tiny_decoder):
    with Cepe(shape=SHAPES[request.param]).attach(tiny_decoder("llama")) as handle:
        yield handle


def _batch(seed=0):
    return TextBatch(torch.randint(3, 300, (2, 40), generator=torch.Generator().manual_seed(1)), seed)


def _watched(objective):
    """What the encoder was given, chunk by chunk, from here on."""
    given = []
    objective.reader.encoder.register_forward_pre_hook(lambda _, called: given.extend(called[0]))
    return given


def test_only_the_encoder_and_the_blank_train(handle):
    objective = handle.objective("mlm")
    names = {name.removeprefix("reader.").split(".")[0] for name in objective.trainable()}
    assert names == {"encoder", "blank"}
    for b in handle.reader.encoder.lora.b.values() if handle.reader.config.own is None else ():
        torch.nn.init.normal_(b, std=0.1)  # behind zeros the other half of a LoRA feels nothing
    terms = objective(_batch())
    assert terms.keys() == {"mlm"}
    terms["mlm"].backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in objective.trainable().values())
    assert not any(parameter.requires_grad for parameter in handle.decoder.model.parameters())


def test_the_loss_is_the_cross_entropy_of_what_is_blanked_out(handle):
    objective, batch = handle.objective("mlm", blanked=0.25), _batch()
    given = _watched(objective)
    with torch.no_grad():
        found = objective(batch)["mlm"]
        chunks = [chunk for row in batch.ids for chunk in row.split(16)]
        assert [len(chunk) for chunk in given] == [16, 16, 8, 16, 16, 8]
        assert [int((chunk == MEMORY).sum()) for chunk in given] == [4, 4, 2, 4, 4, 2]
        losses = []
        for seen, chunk in zip([*given], chunks, strict=True):
            holes = seen == MEMORY
            assert torch.equal(seen[~holes], chunk[~holes]), "and nothing else is changed"
            [states] = handle.reader.encoder([seen], objective.blank)
            losses += F.cross_entropy(handle.reader.encoder.logits(states[holes]), chunk[holes], reduction="none")
    torch.testing.assert_close(found, torch.stack(losses).mean(), atol=1e-5, rtol=0)


def test_each_step_blanks_out_other_tokens_and_the_same_step_the_same(handle):
    objective = handle.objective("mlm")
    given = _watched(objective)
    with torch.no_grad():
        for seed in (1, 2, 1):
            objective(_batch(seed))
    first, second, again = (torch.cat(given[at : at + 6]) for at in (0, 6, 12))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_an_encoder_of_its_own_learns_and_a_reader_of_it_is_still_untrained(tiny_decoder, tmp_path):
    """Of two tokens that alternate each is told by its neighbours: far below the entropy of a coin."""
    ids = torch.tensor([7, 9]).repeat(16)[None]
    with Cepe(shape=SHAPES["own"]).attach(tiny_decoder("llama")) as handle:
        objective = handle.objective("mlm")
        optimizer = torch.optim.AdamW(objective.parameters(), lr=0.01)
        for step in range(60):
            optimizer.zero_grad()
            loss = objective(TextBatch(torch.cat([ids, ids.roll(1)]), step))["mlm"]
            loss.backward()
            optimizer.step()
        assert loss < math.log(2) / 2
        objective.settle()
        objective.save(tmp_path, {"window": 32, "tokens": 3840})
    with Cepe(weights=tmp_path).attach(tiny_decoder("llama")) as again:
        assert (again.reader.trained.states, again.reader.trained.tokens) == (0, 3840)
        assert "not trained" in again.caveats([])[0]
