"""Passages are a document cut into pieces: nothing lost, nothing twice, no character torn."""

from __future__ import annotations

import logging
import time
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from preread.core.errors import UsageError
from preread.core.types import Document, Mark
from preread.data.passages import split

TEXTS = st.text(st.one_of(st.sampled_from("ab .\n\t!?🗼é👩‍👧日。\r\x00"), st.characters(exclude_categories=["Cs"])))
PROSE = "The keeper wrote it down. The lamp burned! Did nobody sleep? In winter, the storm came.\n\n"
SETTINGS = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])


def document(text: str) -> Document:
    return Document("/a.txt", "a", text)


@pytest.fixture(scope="module")
def space_dropper() -> PreTrainedTokenizerFast:
    """A tokenizer of the other kind: no token covers white space, and its normaliser changes lengths."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[.!?]"), "isolated")]
    )
    trainer = trainers.WordPieceTrainer(vocab_size=80, special_tokens=["[UNK]"], show_progress=False)
    backend.train_from_iterator([PROSE], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def check_laws(doc: Document, tokenizer, size: int) -> None:
    passages = split(doc, tokenizer, size)
    whole = tokenizer(doc.text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    assert [i for passage in passages for i in passage.ids] == whole
    if not whole:
        assert passages == []
        return
    assert "".join(passage.text for passage in passages) == doc.text
    assert passages[0].start == 0
    assert passages[-1].end == len(doc.text)
    seen = 0
    for index, passage in enumerate(passages):
        assert passage.text == doc.text[passage.start : passage.end] != ""
        assert (passage.index, passage.first_token, passage.document) == (index, seen, doc.hash)
        assert passage.ids
        seen += len(passage.ids)
    assert all(one.end == two.start for one, two in pairwise(passages))


@SETTINGS
@given(text=TEXTS, size=st.integers(1, 40))
@example(text="🗼" * 9, size=1)
@example(text="<|im_end|> is text", size=3)
def test_laws_for_a_byte_level_tokenizer(tiny_tokenizer, text, size):
    check_laws(document(text), tiny_tokenizer, size)
    if size >= 4:  # no character has more than four bytes
        assert all(len(passage.ids) <= size for passage in split(document(text), tiny_tokenizer, size))


@SETTINGS
@given(text=TEXTS, size=st.integers(1, 40))
@example(text="  \n a  ﷺ b ", size=2)
def test_laws_for_a_tokenizer_that_drops_white_space(space_dropper, text, size):
    check_laws(document(text), space_dropper, size)


def test_each_passage_decodes_to_its_text(tiny_tokenizer):
    text = "日本語 🗼 naïve — " * 40
    for passage in split(document(text), tiny_tokenizer, 16):
        assert tiny_tokenizer.decode(passage.ids) == passage.text


def test_passages_end_at_paragraphs_and_are_three_quarters_full(tiny_tokenizer):
    passages = split(document(PROSE * 60), tiny_tokenizer, 240)
    assert len(passages) > 5
    for passage in passages[:-1]:
        assert passage.text.endswith("\n\n")
        assert 180 <= len(passage.ids) <= 240


def test_without_paragraphs_they_end_at_sentences(tiny_tokenizer):
    passages = split(document(PROSE.replace("\n\n", " ") * 60), tiny_tokenizer, 240)
    assert len(passages) > 5
    assert all(passage.text.rstrip()[-1] in ".!?" for passage in passages)
    assert all(180 <= len(passage.ids) <= 240 for passage in passages[:-1])


def test_a_paragraph_end_wins_over_a_later_sentence_end(tiny_tokenizer):
    head, tail = "a b " * 100 + "end.\n\n", "c. d. " * 200
    size = len(tiny_tokenizer(head)["input_ids"]) + 20
    assert split(document(head + tail), tiny_tokenizer, size)[0].text.rstrip() == head.rstrip()


def test_a_sentence_may_end_inside_quotes_and_in_chinese(tiny_tokenizer):
    for head, tail in (("a b " * 20 + "she said “go.”", " c d" * 40), ("日" * 20 + "。", "日" * 40)):
        size = len(tiny_tokenizer(head)["input_ids"]) + 5
        assert split(document(head + tail), tiny_tokenizer, size)[0].text.rstrip() == head.rstrip()


def test_without_any_end_they_are_exactly_full(tiny_tokenizer):
    passages = split(document("q" * 1000), tiny_tokenizer, 240)
    assert [len(passage.ids) for passage in passages] == [240, 240, 240, 240, 40]


def test_a_short_document_is_one_passage(tiny_tokenizer):
    (passage,) = split(document("One.\n\nTwo."), tiny_tokenizer)
    assert passage.text == "One.\n\nTwo."


def test_place_is_that_of_the_start(tiny_tokenizer):
    text = "".join(f"{'word ' * 60}\n\n" for _ in range(9))
    marks = tuple(Mark(start, "page", str(page)) for page, start in enumerate(range(0, len(text), len(text) // 9), 1))
    doc = Document("/a.pdf", "a", text, marks)
    for passage in split(doc, tiny_tokenizer, 100):
        assert passage.place == doc.place(passage.start, passage.end) != ""


def test_special_tokens_in_a_text_are_text(tiny_tokenizer):
    (passage,) = split(document("<|im_end|>\n<|im_start|>system"), tiny_tokenizer)
    assert not {1, 2} & set(passage.ids)
    assert tiny_tokenizer("<|im_end|>")["input_ids"] == [2], "the tokenizer is as it was"


def test_a_document_longer_than_the_window_warns_nobody(tiny_tokenizer, caplog):
    with caplog.at_level(logging.WARNING, logger="transformers"):
        split(document("q" * (tiny_tokenizer.model_max_length + 1)), tiny_tokenizer)
    assert caplog.records == []


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_below_one_is_refused(tiny_tokenizer, size):
    with pytest.raises(UsageError, match=str(size)):
        split(document("text"), tiny_tokenizer, size)


def test_the_cost_of_cutting_grows_with_the_text_alone(tiny_tokenizer):
    def seconds(repeats: int) -> float:
        doc = document(PROSE * repeats)
        begun = time.process_time()
        split(doc, tiny_tokenizer)
        return time.process_time() - begun

    seconds(100)
    assert seconds(8000) < 8 * 4 * max(seconds(1000), 0.02)  # 0.7 MB against 0.09 MB; a quadratic cut costs 64 times
