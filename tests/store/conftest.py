"""A small library and documents for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from preread.core.types import Document, Mark, Passage, sha256
from preread.store.store import Store

WIDTH = 8
MakeDocument = Callable[[str, list[str]], tuple[Document, list[Passage]]]
VectorsOf = Callable[[list[Passage]], np.ndarray]
AddTo = Callable[[Store, str, str, list[str]], Document]


def make_document(source: str, sentences: list[str]) -> tuple[Document, list[Passage]]:
    """A document whose passages are the sentences, joined without a gap; a word is a token."""
    text = "".join(sentences)
    document = Document(source, f"Title of {source}", text, (Mark(0, "page", "1"),))
    passages, start, first = [], 0, 0
    for index, sentence in enumerate(sentences):
        ids = tuple(len(word) for word in sentence.split())
        end = start + len(sentence)
        passages.append(Passage(document.hash, index, ids, start, end, sentence, document.place(start), first))
        start, first = end, first + len(ids)
    return document, passages


def vectors_of(passages: list[Passage]) -> np.ndarray:
    """[n, WIDTH] unit vectors that depend on the text alone."""
    seeds = [int(sha256(passage.text)[:8], 16) for passage in passages]
    rows = np.stack([np.random.default_rng(seed).standard_normal(WIDTH) for seed in seeds])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def add_to(store: Store, collection: str, source: str, sentences: list[str]) -> Document:
    """Payloads, then the commit, as a library does it."""
    document, passages = make_document(source, sentences)
    payloads = {sha256("memory", passage.text): passage.text.encode() * 3 for passage in passages}
    whole = sha256("whole", document.hash)
    store.put({**payloads, whole: document.text.encode()})
    keys = [{"lloco": sha256("memory", passage.text)} for passage in passages]
    store.commit(collection, document, passages, vectors_of(passages), keys, {"text": whole})
    return document


@pytest.fixture(name="make_document")
def _make_document() -> MakeDocument:
    return make_document


@pytest.fixture(name="vectors_of")
def _vectors_of() -> VectorsOf:
    return vectors_of


@pytest.fixture(name="add_to")
def _add_to() -> AddTo:
    return add_to


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "library")


@pytest.fixture
def traces() -> Callable[[Store, str], list[str]]:
    """Files of the library, by path or content, in which a text stands as bytes."""

    def find(store: Store, text: str) -> list[str]:
        files = (file for file in store.path.rglob("*") if file.is_file())
        return [
            str(file.relative_to(store.path))
            for file in files
            if text in file.name or text.encode() in file.read_bytes()
        ]

    return find
