"""The bridge to lm-eval: plain requests as its own `hf` model has them, documents as an answerer has them."""

from __future__ import annotations

import importlib
import random
import sys
import warnings
from dataclasses import dataclass
from typing import ClassVar

import pytest

from preread.core.errors import PrereadWarning, UsageError
from preread.core.types import Document, text_hash
from preread.eval.answerers.plain import Full, Nothing
from preread.eval.case import Case, Item, Unfit

from .conftest import ROWS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    import lm_eval
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from preread.eval.harness import PrereadLM

TALE = ROWS[1]["text"].strip()


@pytest.fixture
def theirs(kit):
    """lm-eval's own model, of the same weights."""
    return HFLM(
        pretrained=kit.decoder.model, tokenizer=kit.decoder.tokenizer, batch_size=3, max_length=kit.decoder.window
    )


def asked(kind, *arguments, **doc):
    return [Instance(request_type=kind, doc=doc, arguments=own, idx=0) for own in arguments]


def some(draw, words):
    return " ".join(draw.choices(TALE.split(), k=words))


def whole(texts):
    """Without a last character that the most tokens have cut: engines differ in whether they show that."""
    return [text.rstrip("\ufffd") for text in texts]


def test_log_likelihoods_are_those_of_hf(kit, theirs):
    draw = random.Random(0)
    pairs = [(some(draw, draw.randint(1, 60)), " " + some(draw, draw.randint(1, 9))) for _ in range(14)]
    pairs += [("", some(draw, 5)), ("Ends with spaces  ", "storm"), ("é 灯", " 台"), (some(draw, 9), some(draw, 400))]
    requests = asked("loglikelihood", *pairs)
    ours = PrereadLM(kit).loglikelihood(requests)
    expected = theirs.loglikelihood(requests, disable_tqdm=True)
    assert [nats for nats, _ in ours] == pytest.approx([nats for nats, _ in expected], rel=1e-6, abs=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in expected]


def test_what_would_be_written_is_greedy_and_nothing_else(kit, theirs):
    [written] = theirs.generate_until(asked("generate_until", ("The keeper", {"max_gen_toks": 3, "until": []})))
    pairs = asked("loglikelihood", ("The keeper", written), ("The keeper", " schooner"))
    ours, expected = PrereadLM(kit).loglikelihood(pairs), theirs.loglikelihood(pairs, disable_tqdm=True)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in expected]
    assert not ours[1][1]


def test_rolling_log_likelihoods_are_those_of_hf_past_the_window_too(kit, theirs):
    draw = random.Random(1)
    requests = asked("loglikelihood_rolling", *((some(draw, words),) for words in (1, 30, 2500)))
    assert len(kit.decoder.tokens(requests[-1].args[0])) > kit.decoder.window
    ours = PrereadLM(kit).loglikelihood_rolling(requests)
    assert ours == pytest.approx(theirs.loglikelihood_rolling(requests, disable_tqdm=True), rel=1e-6, abs=1e-4)


def test_greedy_texts_are_those_of_hf(kit, theirs):
    draw = random.Random(2)
    told = [
        {"max_gen_toks": 12, "until": []},
        {"max_gen_toks": 20, "until": ["e", "\n"]},
        {"until": "o", "max_tokens": 9},
    ]
    requests = asked("generate_until", *((some(draw, draw.randint(2, 50)), draw.choice(told)) for _ in range(10)))
    ours = PrereadLM(kit).generate_until(requests)
    assert whole(ours) == whole(theirs.generate_until(requests, disable_tqdm=True))
    assert len(set(ours)) > 3


def test_a_prompt_past_the_window_loses_its_beginning_as_in_hf_and_it_is_said(kit, theirs):
    draw = random.Random(3)
    long = some(draw, 2500)
    for kind, wanted in (("loglikelihood", " the storm"), ("generate_until", {"max_gen_toks": 8, "until": []})):
        requests = asked(kind, (long, wanted))
        with pytest.warns(PrereadWarning, match="without its beginning"):
            ours = getattr(PrereadLM(kit), kind)(requests)
        expected = getattr(theirs, kind)(requests, disable_tqdm=True)
        if kind == "generate_until":
            assert whole(ours) == whole(expected)
        else:
            assert ours[0][0] == pytest.approx(expected[0][0], abs=1e-4)


def test_a_task_that_draws_its_answers_is_refused(kit):
    with pytest.raises(UsageError, match="do_sample"):
        PrereadLM(kit).generate_until(asked("generate_until", ("Who?", {"do_sample": True, "temperature": 1.0})))


def test_a_document_is_handed_over_apart_and_the_rest_is_the_question(kit):
    """By every answerer: its numbers are those of the same case asked directly."""
    prompt = f"Read.\n\n{TALE}\n\nWho slept?\nAnswer:"
    item = Item("q", "Read.\n\nWho slept?\nAnswer:", (), ("nobody", "the keeper"))
    case = Case("c", Document("c", "c", TALE), (item,))
    for answerer in (Full(), Nothing()):
        direct = answerer.respond(kit, case, 6).responses[0]
        bridge = PrereadLM(kit, answerer)
        found = bridge.loglikelihood(asked("loglikelihood", (prompt, " nobody"), (prompt, " the keeper"), context=TALE))
        assert [-nats for nats, _ in found] == pytest.approx([choice.nats for choice in direct.choices])
        told = {"max_gen_toks": 6, "until": []}
        assert bridge.generate_until(asked("generate_until", (prompt, told), context=TALE)) == [direct.answer]
        stop = direct.answer[1]
        [cut] = bridge.generate_until(asked("generate_until", (prompt, told | {"until": [stop]}), context=TALE))
        assert cut == direct.answer.partition(stop)[0]


def test_greedy_of_a_document_is_what_the_answerer_would_write(kit):
    prompt = f"{TALE}\nWho slept?"
    bridge = PrereadLM(kit, Full())
    [answer] = bridge.generate_until(asked("generate_until", (prompt, {"max_gen_toks": 4}), context=TALE))
    found = bridge.loglikelihood(asked("loglikelihood", (prompt, answer), (prompt, " no" + answer), context=TALE))
    assert [greedy for _, greedy in found] == [True, False]


def test_documents_and_plain_requests_keep_their_places(kit, theirs):
    prompt = f"{TALE}\nWho slept?"
    mixed = [
        *asked("loglikelihood", ("The", " storm")),
        *asked("loglikelihood", (prompt, " nobody"), context=TALE),
        *asked("loglikelihood", ("In winter", " the storm"), context=None),
    ]
    found = PrereadLM(kit, Full()).loglikelihood(mixed)
    plain = theirs.loglikelihood(mixed, disable_tqdm=True)
    assert [found[i][0] for i in (0, 2)] == pytest.approx([plain[i][0] for i in (0, 2)], abs=1e-4)
    assert found[1] == PrereadLM(kit, Full()).loglikelihood(mixed[1:2])[0]
    assert found[1][0] != pytest.approx(plain[1][0], abs=1e-2)


def test_a_document_that_the_prompt_changed_is_read_as_it_is_and_it_is_said(kit, theirs):
    requests = asked("loglikelihood", (f"{TALE.upper()}\nWho slept?", " nobody"), context=TALE)
    with pytest.warns(PrereadWarning, match="1 of 1 prompts do not hold their context"):
        [(nats, _)] = PrereadLM(kit, Full()).loglikelihood(requests)
    assert nats == pytest.approx(theirs.loglikelihood(requests, disable_tqdm=True)[0][0], abs=1e-4)


@dataclass(frozen=True)
class Leaky(Nothing):
    """Has seen the tale."""

    kind: ClassVar[str] = "leaky"

    def trained_on(self, kit):
        return frozenset({text_hash(TALE)})


def test_what_an_answerer_cannot_or_must_not_do_is_refused(kit):
    prompt = f"{TALE}\nWho slept?"
    with pytest.raises(UsageError, match="trained on"):
        PrereadLM(kit, Leaky()).loglikelihood(asked("loglikelihood", (prompt, " nobody"), context=TALE))
    endless = TALE * 40
    with pytest.raises(Unfit):
        PrereadLM(kit, Full()).loglikelihood(asked("loglikelihood", (f"{endless}\nWho?", " nobody"), context=endless))


def rows(**_):
    from datasets import Dataset

    questions = [("Who slept?", "nobody"), ("What burned?", "the lamp"), ("What came?", "the storm")]
    return {"test": Dataset.from_list([{"context": TALE, "question": q, "answer": a} for q, a in questions])}


def test_a_task_of_lm_eval_runs_and_a_document_is_read_once(kit, monkeypatch):
    task = {
        "task": "tales",
        "custom_dataset": rows,
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{context}}\n{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"max_gen_toks": 4, "until": ["\n"], "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    cases = []
    respond = Full.respond
    monkeypatch.setattr(
        Full, "respond", lambda self, kit, case, most: cases.append(case) or respond(self, kit, case, most)
    )
    manager = TaskManager(include_defaults=False)
    found = lm_eval.simple_evaluate(PrereadLM(kit, Full()), tasks=[task], task_manager=manager, bootstrap_iters=0)
    assert found["results"]["tales"]["exact_match,none"] == 0.0
    assert [[item.question for item in case.items] for case in cases] == [["Who slept?", "What burned?", "What came?"]]


def test_without_lm_eval_the_remedy_is_to_install_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "preread.eval.harness")
    monkeypatch.setitem(sys.modules, "lm_eval.api.instance", None)
    with pytest.raises(UsageError, match=r"pip install 'preread\[lm-eval\]'"):
        importlib.import_module("preread.eval.harness")
