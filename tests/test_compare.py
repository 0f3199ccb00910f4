"""One question by every method, and the page that shows it."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from preread import compare as module
from preread.collection.settings import Settings
from preread.compare import Column, compare
from preread.core.answer import Answer, Citation, DocumentRead, Extent, Usage
from preread.core.errors import UnsupportedModel, UsageError
from preread.core.types import Sampling
from preread.methods import METHODS
from preread.page import page

SHORT = Sampling(max_tokens=4)
QUESTION = "What met storm number 35?"


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the words outside of style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.elements and self.elements[-1][0] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def compared(collection, log):
    collection.add(log)
    return compare(collection, QUESTION, sampling=SHORT)


def test_every_method_answers_as_it_does_alone(collection, compared):
    assert [column.method for column in compared.columns] == list(METHODS)
    for column in compared.columns:
        assert column.error == ""
        assert column.answer.text == collection.ask(QUESTION, column.method, sampling=SHORT).text
        assert column.answer.usage.tokens_written <= 4


def test_tokens_and_bytes_are_those_of_the_library(collection, compared, log):
    assert compared.tokens == sum(entry.tokens for entry in collection.documents())
    assert compared.text_bytes == len(log.read_bytes())
    _, sizes = collection.store.stored("sea")
    kept = {key for source in collection.store.stored("sea")[0].values() for key in source if key in sizes}
    own = next(column for column in compared.columns if column.method == collection.settings.method)
    assert 0 < own.bytes_kept <= sum(sizes[key] for key in kept)
    assert own.made_s == 0
    for column in compared.columns:
        assert bool(column.bytes_kept) == bool(collection.handle(column.method).scopes)


def test_memories_that_the_collection_does_not_keep_are_made_and_counted(open_library, log):
    plain = open_library().collection("plain", Settings("tiny", method="text", passage_tokens=80))
    plain.add(log)
    makers = [c for c in compare(plain, QUESTION, sampling=SHORT).columns if plain.handle(c.method).scopes]
    assert makers
    for column in makers:
        assert column.error == ""
        assert column.made_s > 0
        assert column.bytes_kept > 0


def test_a_method_that_cannot_answer_says_why_and_stops_no_other(collection, log, monkeypatch):
    class Unable:
        def attach(self, decoder):
            raise UnsupportedModel("another decoder", "this one", "Nothing was attached.", "Choose another.")

    collection.add(log)
    monkeypatch.setattr("preread.collection.settings.METHODS", {**METHODS, "unable": Unable})
    monkeypatch.setattr(module, "METHODS", {"unable": Unable, "text": METHODS["text"]})
    monkeypatch.setattr(
        collection,
        "handle",
        lambda name, own=collection.handle: Unable().attach(None) if name == "unable" else own(name),
    )
    columns = compare(collection, QUESTION, sampling=SHORT).columns
    assert [(column.method, column.answer is None) for column in columns] == [("unable", True), ("text", False)]
    assert "another decoder" in columns[0].error


def test_a_document_forgotten_meanwhile_leaves_no_memory(open_library, log, monkeypatch):
    """Its passages were looked up; its memories must not be made after its forgetting, which nothing would remove."""
    collection = open_library().collection("sea", Settings("tiny", method="text", passage_tokens=80))
    collection.add(log)
    missing = collection.store.missing

    def forget_then(keys):
        monkeypatch.setattr(collection.store, "missing", missing)
        absent = missing(keys)
        collection.forget(log)
        return absent

    monkeypatch.setattr(collection.store, "missing", forget_then)
    columns = compare(collection, QUESTION, sampling=SHORT).columns
    assert all(column.answer is None and column.error for column in columns)
    assert not [file for file in (collection.store.path / "payloads").rglob("*") if file.is_file()]


def test_an_empty_collection_is_refused(open_library):
    with pytest.raises(UsageError, match="documents in"):
        compare(open_library().collection("empty"), QUESTION)


def test_the_page_says_all_that_the_answers_say(compared):
    text = Page(page(compared)).text
    for column in compared.columns:
        use = column.answer.usage
        for said in (column.method, f"{use.tokens_read:,}", f"{use.first_token_s:.2f} s", *column.answer.notes):
            assert " ".join(said.split()) in text
        assert all(cited.title in text for cited in column.answer.citations)
        assert (f"{column.bytes_kept / 1e3:,.1f} kB" in text) == (column.bytes_kept > 0)
    assert QUESTION in text


EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><script>alert(1)</script>",
    "'-alert(1)-'",
    "{{ 7 * 7 }}{% raw %}",
    "<svg/onload=alert(1)>",
    "javascript:alert(1)",
    "<!-- -->]]><iframe srcdoc=x>",
]


@pytest.mark.parametrize("evil", EVIL)
def test_nothing_in_any_text_becomes_markup(compared, evil):
    harmless = Page(page(_with(compared, "harmless")))
    hurt = Page(page(_with(compared, evil)))
    assert [tag for tag, _ in hurt.elements] == [tag for tag, _ in harmless.elements]
    assert [list(attributes) for _, attributes in hurt.elements] == [list(a) for _, a in harmless.elements]
    assert " ".join(evil.split()) in hurt.text


def test_the_page_fetches_and_runs_nothing(compared):
    html = page(compared)
    elements = Page(html).elements
    policy = next(a["content"] for tag, a in elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert not {"script", "link", "img", "iframe", "object", "form", "a"} & {tag for tag, _ in elements}
    assert not [a for _, a in elements if {"src", "href", "style"} & a.keys() or any(k.startswith("on") for k in a)]
    assert "url(" not in html
    assert "@import" not in html


def test_the_policy_allows_just_the_style_that_is_there(compared):
    import base64
    import hashlib

    html = page(compared)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL).group(1)
    assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in html


def test_bars_are_as_long_as_their_numbers(compared):
    html = page(compared)
    widths = [float(w) for w in re.findall(r'class="(?:bar|rest)"[^>]*width="([\d.]+)"', html)]
    read = [column.answer.usage.tokens_read for column in compared.columns] + [compared.tokens]
    assert widths[: len(read)] == pytest.approx([max(2, 320 * n / max(read)) for n in read], abs=0.05)


def _with(compared, text):
    cited = Citation("h", text, text, text, 0, 9, 0.5, text)
    seen = DocumentRead(text, text, Extent(1, text), Extent(2, text), Extent(3, text), 4)
    use = Usage(1, 1, 1, 1, 1.0, 1.0)
    answer = Answer(text, text, text, 0.5, text, None, (cited,), (seen,), use, "stop", (text,))
    columns = (Column(text, answer, "", 5, 1.0), Column("unable", None, text, 0, 0.0))
    return replace(compared, question=text, collection=text, decoder=text, device=text, commit=text, columns=columns)
