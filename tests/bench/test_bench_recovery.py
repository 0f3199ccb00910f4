"""The share of the gap: 1 for the text itself, 0 for nothing, and the likelihood is the model's own."""

from __future__ import annotations

import json

import pytest
import torch

from preread.bench.recovery import Exam, Recovery, answer_nlls, exams, recovery
from preread.core.errors import UsageError
from preread.core.types import Document
from preread.data.passages import split
from preread.methods.kv.method import Kv
from preread.methods.lloco.compressor import CompressorConfig
from preread.methods.lloco.method import Lloco
from preread.methods.text import Text
from preread.nn.lora import LoraConfig

SMALL = CompressorConfig(max_summary=16, lora=LoraConfig(rank=2))
SET = [
    Exam(Document("a", "a", "The keeper of the lighthouse slept."), (("Who slept?", "The keeper"), ("Who?", "he"))),
    Exam(Document("b", "b", "In winter the storm reached the island."), (("When?", "In winter"),)),
]


def test_the_text_itself_recovers_all_of_the_gap(tiny_decoder):
    result = recovery(tiny_decoder("llama"), Text(), SET)
    assert result.share == 1.0
    assert result.ratio == 1.0
    assert result.questions == 3
    assert result.other_share != 1.0


def test_a_memory_is_measured_at_its_ratio(tiny_decoder):
    method = Lloco(ratio=4, shape=SMALL)
    result = recovery(tiny_decoder("llama"), method, SET)
    assert result.ratio == pytest.approx(4, rel=0.2)
    assert len({result.nothing, result.text, result.memory, result.other}) == 4
    assert result.low - 1e-9 <= result.share <= result.high + 1e-9
    assert recovery(tiny_decoder("llama"), method, SET) == result


@pytest.mark.parametrize("match", [False, True])
def test_keys_and_values_are_judged_like_any_memory(tiny_decoder, match):
    result = recovery(tiny_decoder("llama"), Kv(ratio=1, match=match), SET)
    assert result.share == pytest.approx(1, abs=1e-3), "all of one passage is the text itself"
    assert (result.low, result.high) == pytest.approx((1, 1), abs=1e-3)
    assert recovery(tiny_decoder("llama"), Kv(ratio=4, match=match), SET).memory != result.memory


def test_shares():
    result = Recovery(ratio=4, nothing=5.0, text=3.0, memory=4.0, other=5.5, questions=1)
    assert (result.share, result.other_share) == (0.5, -0.25)


def test_the_likelihood_is_the_models_own(tiny_decoder):
    decoder = tiny_decoder("qwen2")
    with Text().attach(decoder) as reader:
        prompt, answer = reader.prompt("Who slept?", []), decoder.tokens("The keeper")
    ids = torch.cat([prompt.ids, answer])
    labels = torch.cat([torch.full_like(prompt.ids, -100), answer])
    with torch.inference_mode():
        loss = decoder.model(input_ids=ids[None], labels=labels[None]).loss
    assert answer_nlls(decoder, [prompt], [answer]) == [pytest.approx(float(loss), abs=1e-5)]


@pytest.mark.parametrize("method", [Text(), Kv(ratio=3), Kv(ratio=3, match=True), Lloco(ratio=4, shape=SMALL)])
def test_what_questions_share_is_read_once_and_changes_nothing(tiny_decoder, method):
    decoder = tiny_decoder("llama")
    passages = split(SET[0].document, decoder.tokenizer, 20)
    with method.attach(decoder) as handle:
        memories = list(handle.encode(passages))
        prompts = [
            handle.prompt(question, memories) for question in ("Who slept?", "Who?", "Who slept where, and why?")
        ]
    answers = [decoder.tokens(answer) for answer in ("The keeper", "he", "nobody knows")]
    alone = [answer_nlls(decoder, [prompt], [answer])[0] for prompt, answer in zip(prompts, answers, strict=True)]
    assert answer_nlls(decoder, prompts, answers) == pytest.approx(alone, abs=1e-5)


def test_exams_come_from_a_question_set(tmp_path):
    rows = [
        {"doc_id": str(i), "text": "x" * size, "questions": [{"question": "Q", "answers": answers}] * 3}
        for i, (size, answers) in enumerate([(10, ["a", "b"]), (99, ["a"]), (10, []), (12, ["c"]), (9, ["d"])])
    ]
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = exams(path, documents=2, questions=2, most_characters=50)
    assert [(e.document.source, e.questions) for e in found] == [("0", (("Q", "a"),) * 2), ("3", (("Q", "c"),) * 2)]
    with pytest.raises(UsageError, match="two documents"):
        exams(path, documents=2, questions=2, most_characters=5)
