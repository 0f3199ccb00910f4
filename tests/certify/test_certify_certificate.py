"""The whole certificate: its tables are the harness's, a broken window is called so, a stopped run goes on."""

from __future__ import annotations

import json
import random
from functools import partial

import pytest
import torch

from preread.certify import certifying
from preread.certify.certificate import Limits
from preread.certify.figures import figures
from preread.certify.plan import Plan
from preread.core.types import text_hash
from preread.eval.answerers.plain import Full
from preread.eval.cache import Cache
from preread.eval.kit import Kit
from preread.eval.runner import run
from preread.eval.summary import table
from preread.methods.longlora import attach, detach
from preread.nn.views import view, within

from .conftest import SMALL

SENTENCES = (
    "The keeper of the lighthouse slept. ",
    "In winter the storm reached the island at night; the lamp burned. ",
    "Who kept the lighthouse? What did the keeper write? ",
    "A decoder reads tokens, one after the other. ",
)


def test_every_part_is_measured_and_the_tables_are_those_of_the_harness(made, data, tmp_path, tiny_decoder):
    decoder = tiny_decoder()
    base = within(tiny_decoder("llama", seed=1), 768)
    found = made(decoder, base=base)
    assert found.missing == []
    assert (found.span.before, found.span.length) == (768, 1024)
    assert [one.window for one in found.lengths] == [one.window for one in found.positions] == [1024]
    assert [(one.window, one.asked) for one in found.passkey] == [(768, 5), (1024, 5)]
    assert [(one.window, one.asked) for one in found.topics] == [(768, 1), (1024, 1)]
    assert [one.task for one in found.regression] == ["short text (512 tokens)", "nq_oracle, closed book"]
    plan = Plan(found.span, SMALL, len(decoder.start_ids))
    tasks = [*plan.by_length, plan.by_position, plan.passkey, plan.topics, *plan.short]
    again = run(Kit(decoder, data, tmp_path), tasks, [Full()], Cache(tmp_path / "apart"))
    for one in again:
        ours = next(own for own in found.tables if own.label == one.task.label)
        theirs = table(one, on_gpu=False)
        assert (ours.rows[0].metrics, ours.rows[0].cells) == (theirs.rows[0].metrics, theirs.rows[0].cells)
    json.loads(json.dumps(found.as_json(), allow_nan=False))


def test_what_was_judged_is_not_judged_again_and_a_killed_run_goes_on(made, monkeypatch, tmp_path):
    made = partial(made, work=tmp_path, length=128)
    judged, judge = [], certifying.run.__globals__["judge"]

    def killed(kit, task, answerer, unit):
        if len(judged) == 7:
            raise KeyboardInterrupt
        judged.append((task.label, unit.id))
        return judge(kit, task, answerer, unit)

    monkeypatch.setattr("preread.eval.runner.judge", killed)
    with pytest.raises(KeyboardInterrupt):
        made()
    before, judged[:] = list(judged), []
    monkeypatch.setattr("preread.eval.runner.judge", lambda *a: judged.append((a[1].label, a[3].id)) or judge(*a))
    went_on = made()
    assert not set(before) & set(judged)
    monkeypatch.setattr("preread.eval.runner.judge", lambda *_: pytest.fail("it was judged already"))
    again = made()
    assert (again.lengths, again.positions, again.passkey) == (went_on.lengths, went_on.positions, went_on.passkey)
    assert again.tables == went_on.tables


def test_what_cannot_be_measured_is_named(made, data, tmp_path):
    found = made(minutes=0, work=tmp_path, length=600)
    assert found.cut
    assert {one.part for one in found.missing} >= {"passkey", "loss by length", "loss by position", "topic retrieval"}
    assert all("minutes" in one.why or "--base" in one.why for one in found.missing)
    found = made(length=400)
    whys = {one.part: one.why for one in found.missing}
    assert not found.cut
    assert "no document beside a question" in whys["passkey"]
    assert "no --base" in whys["short text (512 tokens) beside the base"]
    book = json.loads((data / "text" / "books.test.jsonl").read_text().splitlines()[0])["text"]
    whys = {one.part: one.why for one in made(length=600, trained_on=frozenset({text_hash(book)})).missing}
    assert "was not trained on" in whys["loss by length"]
    assert "was not trained on" in whys["loss by position"]


def test_thresholds_are_checked_and_what_was_not_measured_is_no_pass(made, tiny_decoder):
    base = within(tiny_decoder(), 768)
    same = made(base=base, limits=Limits(min_passkey=0.0, max_regression=0.02))
    assert same.passed, "it is its own base, and no passkey is needed"
    assert [one.relative.value for one in same.regression] == [0.0, 0.0]
    found = made(base=base, limits=Limits(min_passkey=0.9))
    assert [(check.name, check.passed) for check in found.checks] == [("causality", True), ("passkey", False)]
    found = made(limits=Limits(max_regression=0.02))
    assert [(check.name, check.value, check.passed) for check in found.checks[1:]] == [("regression", None, False)]


@pytest.fixture(scope="module")
def taught(tiny_decoder):
    """A tiny decoder that has learned which word follows which in a few sentences; takes some seconds."""
    decoder, draw = tiny_decoder(), random.Random(0)
    ids = decoder.tokens("".join(draw.choice(SENTENCES) for _ in range(600)))
    model = decoder.model
    model.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        rows = torch.stack([ids[at : at + 128] for at in draw.sample(range(len(ids) - 128), 8)])
        model(input_ids=rows, labels=rows).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.requires_grad_(False).eval()
    return view(decoder, fingerprint="taught")


@pytest.fixture
def sentences(data, tmp_path):
    """Books of those sentences alone, in a folder of their own."""
    draw, folder = random.Random(1), tmp_path / "sentences"
    (folder / "text").mkdir(parents=True)
    rows = [{"doc_id": f"{i}", "text": "".join(draw.choice(SENTENCES) for _ in range(300))} for i in range(3)]
    (folder / "text" / "books.test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_window_whose_positions_are_stretched_wrongly_is_broken(taught, sentences, tmp_path):
    def certified(decoder, name):
        return certifying.certify(decoder, sentences, tmp_path / name, base=within(decoder, 64), length=128, size=SMALL)

    healthy = certified(taught, "healthy")
    assert [one.word for one in healthy.lengths] != ["broken"]

    def scattered(module, arguments, keywords):
        positions = keywords.get("position_ids", arguments[1] if len(arguments) > 1 else None)
        wrong = torch.where(positions < 64, positions, positions * 7919 % 65_536)
        return (arguments[0],), keywords | {"position_ids": wrong}

    hook = taught.model.base_model.rotary_emb.register_forward_pre_hook(scattered, with_kwargs=True)
    try:
        broken = certified(view(taught, fingerprint="broken"), "broken")
    finally:
        hook.remove()
    assert [one.word for one in broken.lengths] == ["broken"]
    assert [one.word for one in broken.positions] == ["broken"]
    assert broken.passed, "what has no threshold fails nothing"
    assert broken.lengths[0].difference.value > healthy.lengths[0].difference.value


def test_attention_put_in_by_hand_is_certified_and_keeps_nothing(made, tiny_decoder, tmp_path):
    decoder = tiny_decoder()
    attach(decoder.model, 256, group=32, full_below=64)
    try:
        found = made(decoder, work=tmp_path / "work", length=256)
    finally:
        detach(decoder.model)
    assert found.passed
    assert found.attention.startswith("shifted")
    assert not (tmp_path / "work").exists(), "its name says nothing in another process"


def test_a_figure_is_made_by_a_whole_run_of_the_packaged_decoder_alone(made, tiny_decoder, monkeypatch):
    decoder = tiny_decoder()
    base = view(within(tiny_decoder("llama", seed=1), 768), name="smollm2-135m-instruct")
    monkeypatch.setattr("preread.certify.figures.BEFORE", 768)
    monkeypatch.setattr("preread.certify.figures.LENGTH", 1024)
    whole = made(decoder, base=base, command="preread certify")
    [figure] = figures(whole)
    least = min(share.value for share in whole.passkey)
    assert (figure.id, figure.value, figure.n, figure.unit) == ("longlora.passkey_32k", least, 5, "share")
    assert figure.low <= figure.value <= figure.high
    assert figures(made(decoder, base=within(tiny_decoder("llama", seed=1), 768))) == [], "another base"
    assert figures(made(decoder, base=base, length=1000)) == [], "not the whole length"
    assert figures(made(decoder, base=base, minutes=0)) != [], "the same is kept, so nothing is cut"
