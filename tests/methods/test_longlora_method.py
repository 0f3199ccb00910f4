"""`longlora` as a method: a longer window while it is attached, trained by recipes, exactly gone when detached."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
import torch
from torch.nn import functional as F

from preread import recipes
from preread.core.errors import FingerprintMismatch, IntegrityError, UsageError
from preread.core.types import PackedBatch, TextBatch
from preread.methods.longlora.extension import ExtensionConfig
from preread.methods.longlora.method import Attention, LongLora
from preread.methods.longlora.objective import MANIFEST
from preread.nn.activations import Levers
from preread.nn.lora import LoraConfig
from preread.training.loop import TrainingConfig, train

SHORT = 64
"""Window of the tiny decoder here."""
PLAIN = Levers(checkpoint="none")


@pytest.fixture
def decoder(tiny_decoder):
    made = tiny_decoder()
    made.model.config.max_position_embeddings = SHORT
    return made


@contextmanager
def _objective(decoder, stage="extend", pose=False, **settings):
    with LongLora(**{"length": 4 * SHORT, "levers": PLAIN, **settings}).attach(decoder) as handle:
        yield handle.objective(stage, pose=pose)


def _ids(decoder, count, seed=0):
    return torch.randint(3, len(decoder.tokenizer), (count,), generator=torch.Generator().manual_seed(seed))


def _batch(decoder, rows=2, window=4 * SHORT, seed=0):
    return TextBatch(_ids(decoder, rows * window, seed).reshape(rows, window), seed)


@torch.no_grad()
def _loss(decoder, ids, positions=None, judged=None):
    """Sum of the next tokens' losses of one row, by the model's own forward."""
    positions = torch.arange(len(ids)) if positions is None else positions
    logits = decoder.model(ids[None], position_ids=positions[None], attention_mask=torch.ones(1, len(ids))).logits[0]
    each = F.cross_entropy(logits[:-1].float(), ids[1:], reduction="none")
    return each[judged[1:]] if judged is not None else each


def test_the_window_is_longer_while_it_is_attached(decoder):
    ids = _ids(decoder, 40)
    before = decoder.model(ids[None]).logits
    with LongLora(length=4 * SHORT, rule="linear").attach(decoder) as handle:
        assert handle.decoder.window == decoder.window == 4 * SHORT
        assert handle.decoder.fingerprint != decoder.fingerprint
        stretched = decoder.model(ids[None]).logits
        assert (stretched - before).abs().max() > 1e-3
        assert handle.caveats([object()]) == ("positions are stretched by linear x4 without training",)
    assert decoder.window == SHORT
    assert torch.equal(decoder.model(ids[None]).logits, before)


def test_the_loss_is_the_models_own_under_full_attention(decoder):
    batch = _batch(decoder)
    with _objective(decoder, attention=Attention("full")) as objective:
        found = objective(batch)["lm"]
        objective.eval()
        wanted = torch.cat([_loss(decoder, row) for row in batch.ids]).mean()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_sparse_in_training_and_full_afterwards(decoder):
    batch = _batch(decoder)
    with _objective(decoder) as objective:
        sparse = float(objective(batch)["lm"].detach())
        objective.settle()
        full = float(objective(batch)["lm"])
        wanted = float(torch.cat([_loss(decoder, row) for row in batch.ids]).mean())
    assert abs(full - wanted) < 1e-5
    assert abs(sparse - full) > 1e-4


@pytest.mark.parametrize("length", [SHORT - 1, -5])
def test_a_shorter_window_is_refused(decoder, length):
    with pytest.raises(UsageError, match=f"{SHORT} or more"):
        LongLora(length=length).attach(decoder)
    assert decoder.window == SHORT


def test_each_stage_names_what_it_reads(decoder):
    with LongLora(length=4 * SHORT).attach(decoder) as handle:
        assert handle.objective("extend").batches == {"windows", "packed"}
        assert handle.objective("instruct").batches == {"instructions"}


def test_a_phase_may_attend_as_reading_will(decoder):
    batch = _batch(decoder)
    with LongLora(length=4 * SHORT, levers=PLAIN).attach(decoder) as handle:
        sparse = float(handle.objective("extend")(batch)["lm"].detach())
        last = handle.objective("extend", attention="full")
        full = float(last(batch)["lm"].detach())
        last.eval()
        wanted = float(torch.cat([_loss(decoder, row) for row in batch.ids]).mean())
        assert float(handle.objective("extend", attention="s2")(batch)["lm"].detach()) == sparse
        with pytest.raises(UsageError, match="s2 or full"):
            handle.objective("extend", attention="sparse")
    assert abs(full - wanted) < 1e-5
    assert abs(sparse - full) > 1e-4


@pytest.mark.parametrize("kind", ["full", "s2"])
def test_packed_documents_are_each_read_alone(decoder, kind):
    lengths = (40, 1, 150, 2, 63)
    ids = _ids(decoder, sum(lengths))
    judged = torch.ones(len(ids), dtype=torch.bool)
    judged[torch.tensor([0, *lengths[:-1]]).cumsum(0)] = False
    with _objective(decoder, attention=Attention(kind)) as objective:
        whole = objective(PackedBatch(ids, lengths, judged))["lm"] * int(judged.sum())
        alone = [
            objective(TextBatch(piece[None], 0))["lm"] * (len(piece) - 1)
            for piece in torch.split(ids, lengths)
            if len(piece) > 1
        ]
    torch.testing.assert_close(whole, torch.stack(alone).sum(), atol=2e-3, rtol=0)


def test_only_what_is_judged_counts(decoder):
    ids = _ids(decoder, 60)
    judged = torch.arange(60) >= 47
    with _objective(decoder, "instruct", attention=Attention("full")) as objective:
        found = objective(PackedBatch(ids, (60,), judged))["lm"]
        objective.eval()
        wanted = _loss(decoder, ids, judged=judged).mean()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_pose_meets_all_positions_with_one_gap_a_row(decoder):
    met = set()
    with _objective(decoder, pose=True, attention=Attention("full")) as objective:
        for seed in range(60):
            batch = _batch(decoder, rows=3, window=SHORT, seed=seed)
            positions = objective._skipping(batch)
            steps = positions.diff(dim=1)
            assert positions[:, 0].eq(0).all()
            assert steps.ge(1).all()
            assert steps.ne(1).sum(1).le(1).all()
            assert int(positions.max()) < 4 * SHORT
            met |= set(positions.flatten().tolist())
        assert len(met) > 0.95 * 4 * SHORT
        found = objective(batch)["lm"]
        objective.eval()
        wanted = torch.cat(
            [_loss(decoder, row, at) for row, at in zip(batch.ids, objective._skipping(batch), strict=True)]
        ).mean()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_what_makes_no_sense_is_said(decoder):
    with _objective(decoder, pose=True) as objective, pytest.raises(UsageError, match="pose"):
        objective(PackedBatch(_ids(decoder, 9), (9,), torch.ones(9, dtype=torch.bool)))
    with _objective(decoder) as objective, pytest.raises(UsageError, match="the new window"):
        objective(_batch(decoder, 1, 4 * SHORT + 1))
    with LongLora().attach(decoder) as handle, pytest.raises(UsageError, match="extend or instruct"):
        handle.objective("adapter")
    with pytest.raises(UsageError, match="a rule out of"):
        LongLora(rule="none")


@pytest.mark.parametrize(
    "extension",
    [
        ExtensionConfig(lora=LoraConfig(rank=4, dropout=0.0)),
        ExtensionConfig(lora=None, embeddings="frozen"),
        ExtensionConfig(lora=LoraConfig(rank=4, dropout=0.1), embeddings="lora"),
        ExtensionConfig(everything=True),
    ],
    ids=["lora+", "norms", "lora-on-embedding", "everything"],
)
def test_a_training_lowers_the_loss_and_is_read_back_as_it_was(decoder, extension, tmp_path):
    batches = [_batch(decoder, seed=seed) for seed in range(2)]
    ids, state = _ids(decoder, 200), {k: v.clone() for k, v in decoder.model.state_dict().items()}
    before = decoder.model(ids[None]).logits
    with _objective(decoder, extension=extension) as objective:
        first = float(objective(batches[0])["lm"].detach())
        outcome = train(
            objective,
            lambda number: batches[number % 2],
            TrainingConfig(steps=12, learning_rate=0.01),
            tmp_path / "run",
        )
        assert outcome.losses["lm"] < first - 0.02
        objective.save(tmp_path / "trained", {"documents": ["d"]})
        after = decoder.model(ids[None]).logits
    assert torch.equal(decoder.model(ids[None]).logits, before)
    assert all(torch.equal(value, state[key]) for key, value in decoder.model.state_dict().items())
    manifest = json.loads((tmp_path / "trained" / MANIFEST).read_text())
    assert (manifest["rule"], manifest["length"], manifest["base"]) == ("yarn", 4 * SHORT, decoder.fingerprint)
    with LongLora(weights=tmp_path / "trained").attach(decoder) as handle:
        assert handle.decoder.window == 4 * SHORT
        assert handle.trained_on == {"d"}
        assert handle.caveats([object()]) == ()
        torch.testing.assert_close(decoder.model(ids[None]).logits, after, atol=1e-5, rtol=0)
        onward = handle.objective("instruct")
        assert float(onward(batches[0])["lm"].detach()) < first - 0.02
    assert torch.equal(decoder.model(ids[None]).logits, before)


def test_weights_keep_the_length_that_they_were_trained_for(decoder, tmp_path):
    with _objective(decoder) as objective:
        objective.settle()
        objective.save(tmp_path / "trained", {})
    with pytest.raises(UsageError, match=f"length: {4 * SHORT}"):
        LongLora(weights=tmp_path / "trained", length=8 * SHORT).attach(decoder)
    with LongLora(weights=tmp_path / "trained", length=4 * SHORT).attach(decoder) as handle:
        assert handle.decoder.window == 4 * SHORT
    assert decoder.window == SHORT


def test_another_decoders_weights_are_refused(decoder, tiny_decoder, tmp_path):
    with _objective(decoder) as objective:
        objective.settle()
        objective.save(tmp_path / "trained", {})
    with pytest.raises(FingerprintMismatch, match="an extension of"):
        LongLora(weights=tmp_path / "trained").attach(tiny_decoder(seed=1))
    (tmp_path / "trained" / MANIFEST).write_text("{}")
    with pytest.raises(IntegrityError, match="a trained extension"):
        LongLora(weights=tmp_path / "trained").attach(decoder)


def test_a_recipe_of_phases_extends_and_judges_held_out_text(decoder, tmp_path, monkeypatch):
    monkeypatch.setattr("preread.recipes.running.load", lambda _: decoder)
    monkeypatch.setattr("preread.recipes.running.cache_home", lambda: tmp_path / "cache")
    for name in ("some", "other"):
        text = f"The {name} keeper of the lighthouse wrote down every ship that passed. " * 40
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": text}) + "\n")
    recipe = recipes.Recipe(
        method="longlora",
        stage="extend",
        data=["some.jsonl"],
        held_out=["other.jsonl"],
        held_out_batches=2,
        batches="packed",
        settings={"length": 4 * SHORT},
        window=4 * SHORT,
        training=TrainingConfig(steps=3),
        phases=[recipes.Phase(window=2 * SHORT), recipes.Phase()],
    )
    outcome = recipes.run(recipe, tmp_path, tmp_path / "run")
    assert (outcome.step, outcome.finished) == (6, True)
    manifest = json.loads((tmp_path / "run" / recipes.TRAINED / MANIFEST).read_text())
    assert manifest["training"]["held_out"]["lm"] > 0
    assert len(manifest["trained_on"]) == 1
    assert decoder.window == SHORT
    assert not any(module._forward_hooks for module in decoder.model.modules())


def test_a_stopped_training_goes_on_as_if_it_had_not_been_stopped(decoder, tmp_path):
    config = TrainingConfig(steps=6, learning_rate=0.01, save_every=1)
    batches = [_batch(decoder, seed=seed) for seed in range(6)]

    def stopping(number):
        if number == 3:
            raise ConnectionError
        return batches[number]

    def run(folder, source):
        extension = ExtensionConfig(lora=LoraConfig(rank=2, dropout=0.2))
        with _objective(decoder, extension=extension, levers=Levers(tiles=2)) as objective:
            train(objective, source, config, folder)
            return {name: parameter.detach().clone() for name, parameter in objective.named_parameters()}

    torch.manual_seed(1)
    straight = run(tmp_path / "straight", batches.__getitem__)
    torch.manual_seed(1)
    with pytest.raises(ConnectionError):
        run(tmp_path / "stopped", stopping)
    went_on = run(tmp_path / "stopped", batches.__getitem__)
    assert straight.keys() == went_on.keys()
    assert all(torch.equal(straight[name], went_on[name]) for name in straight)


def test_a_recipe_of_instructions_goes_on_from_an_extension(decoder, tmp_path, monkeypatch):
    monkeypatch.setattr("preread.recipes.running.load", lambda _: decoder)
    monkeypatch.setattr("preread.recipes.running.cache_home", lambda: tmp_path / "cache")
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "The keeper saw a ship. " * 200}) + "\n")
    asked = [{"question": "Who saw a ship?", "answers": ["The keeper"]}]
    (tmp_path / "asked.jsonl").write_text(json.dumps({"text": "The keeper saw a ship. " * 60, "questions": asked}))
    common = {"method": "longlora", "window": 4 * SHORT, "training": TrainingConfig(steps=2)}
    extend = recipes.Recipe(stage="extend", data=["text.jsonl"], settings={"length": 4 * SHORT}, **common)
    recipes.run(extend, tmp_path, tmp_path / "extended")
    settings = {"weights": tmp_path / "extended" / recipes.TRAINED}
    instruct = recipes.Recipe(
        stage="instruct", data=["asked.jsonl"], batches="instructions", settings=settings, **common
    )
    assert recipes.run(instruct, tmp_path, tmp_path / "instructed").finished
    manifest = json.loads((tmp_path / "instructed" / recipes.TRAINED / MANIFEST).read_text())
    assert manifest["length"] == 4 * SHORT
    assert len(manifest["trained_on"]) == 2
