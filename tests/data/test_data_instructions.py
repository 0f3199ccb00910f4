"""Long instructions: both formats, whole examples in a row, only answers judged, nothing cut but the text."""

from __future__ import annotations

import json

import pytest
import torch

from preread.core.errors import UnreadableDocument, UsageError
from preread.data.instructions import Instructions

STORY = "The keeper of the lighthouse wrote down every ship that passed. " * 20
ASKED = [
    {"question": "Who wrote?", "answers": ["The keeper", "a man"]},
    {"question": "Who slept?", "answers": [], "unanswerable": True},
    {"question": "What passed?", "answers": ["Every ship"]},
]


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"doc_id": "a", "text": STORY, "questions": ASKED}) + "\n")
    return path


@pytest.fixture
def alpaca(tmp_path):
    path = tmp_path / "LongAlpaca.json"
    entries = [
        {"instruction": "Below is a text. Who wrote?", "output": "The keeper"},
        {"instruction": "Sum it up.", "input": "A storm came.", "output": "A storm."},
    ]
    path.write_text(json.dumps(entries))
    return path


def _pieces(batch):
    return list(
        zip(torch.split(batch.ids, list(batch.lengths)), torch.split(batch.judged, list(batch.lengths)), strict=True)
    )


def test_both_formats_are_read(questions, alpaca, tiny_decoder):
    decoder = tiny_decoder()
    read = Instructions.read([questions, alpaca], decoder)
    assert [(item.text, item.question, item.answer) for item in read.items] == [
        (0, "Who wrote?", "The keeper"),
        (0, "What passed?", "Every ship"),
        (None, "Below is a text. Who wrote?", "The keeper"),
        (None, "Sum it up.\n\nA storm came.", "A storm."),
    ]
    assert len(read.documents) == len(set(read.documents)) == 3


def test_a_row_holds_whole_examples_and_judges_answers_with_their_end(questions, alpaca, tiny_decoder):
    decoder = tiny_decoder()
    read = Instructions.read([questions, alpaca], decoder)
    words = {item.answer for item in read.items}
    for seed in range(20):
        batch = read.packed(2, 700, seed)
        assert sum(batch.lengths) <= 1400
        for ids, judged in _pieces(batch):
            answer = ids[judged]
            assert int(answer[-1]) == decoder.tokenizer.eos_token_id
            assert decoder.tokenizer.decode(answer[:-1]) in words
            assert judged.nonzero().flatten().tolist() == list(range(len(ids) - len(answer), len(ids)))
            asked = decoder.tokenizer.decode(ids[~judged])
            assert any(item.question in asked for item in read.items)
    assert torch.equal(read.packed(2, 700, 3).ids, read.packed(2, 700, 3).ids)


def test_a_long_text_is_cut_at_its_end_and_the_question_stays(questions, tiny_decoder):
    decoder = tiny_decoder()
    batch = Instructions.read([questions], decoder).packed(1, 120, 0)
    [(ids, judged)] = _pieces(batch)
    text = decoder.tokenizer.decode(ids)
    assert len(ids) == 120
    assert "The keeper of the lighthouse" in text
    assert ("Who wrote?" in text) or ("What passed?" in text)
    assert judged.any()


def test_nothing_that_fits_is_said(questions, alpaca, tiny_decoder):
    with pytest.raises(UsageError, match="fit into 8 tokens"):
        Instructions.read([questions], tiny_decoder()).packed(1, 8, 0)


@pytest.mark.parametrize(
    "content",
    [
        '[{"instruction": null, "output": "a"}]',
        '[{"instruction": "a", "output": null}]',
        "[]",
        '[{"text": "no question"}]',
        "{}",
        "[1]",
        "nonsense",
    ],
)
def test_what_is_no_instruction_is_refused(tmp_path, content, tiny_decoder):
    path = tmp_path / "some.json"
    path.write_text(content)
    with pytest.raises(UnreadableDocument):
        Instructions.read([path], tiny_decoder())
