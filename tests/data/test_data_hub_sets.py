"""The papers' sets become the project's format; the hub is played by parquet files of the known form."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pyarrow
import pytest
from pyarrow import parquet

from preread.core.errors import UnreadableDocument
from preread.data.corpora import records
from preread.data.hub_sets import HUB_SETS, fetch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
QASPER_ANSWERS = [
    {"answer": [
        {"unanswerable": False, "extractive_spans": ["BLEU", "ROUGE"], "yes_no": None, "free_form_answer": ""},
        {"unanswerable": False, "extractive_spans": [], "yes_no": False, "free_form_answer": ""},
    ]},
    {"answer": [{"unanswerable": True, "extractive_spans": [], "yes_no": None, "free_form_answer": ""}]},
]  # fmt: skip
ROWS = {
    "narrativeqa": [
        {
            "document": {"id": "ab12", "text": "A book.", "summary": {"title": "Book"}},
            "question": {"text": f"Who {i}?"},
            "answers": [{"text": "He"}, {"text": "She"}],
        }
        for i in range(2)
    ],
    "qasper": [
        {
            "id": "1503.1",
            "title": "Paper",
            "abstract": "We measure.",
            "full_text": {"section_name": ["Intro", None], "paragraphs": [["One.", "Two."], ["Three."]]},
            "qas": {"question": ["Which?", "Why?"], "question_id": ["q1", "q2"], "answers": QASPER_ANSWERS},
        }
    ],
    "quality": [
        {"article": text, "question": "Which?", "options": ["a", "b", "c", "d"], "answer": 2, "hard": True}
        for text in ("Long ago.", "Elsewhere.", "Long ago.")
    ],
    "hotpotqa": [
        {
            "id": "5a",
            "question": "Who?",
            "answer": "Ann",
            "supporting_facts": {"title": ["B", "B"], "sent_id": [0, 1]},
            "context": {"title": ["A", "B"], "sentences": [["One. ", "Two."], ["Ann."]]},
        }
    ],
    "pg19": [{"short_book_title": "Emma", "publication_date": 1815, "url": "", "text": "Emma Woodhouse."}],
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of files on disk; the list of what was downloaded."""
    downloaded: list[tuple[str, str]] = []
    for name, rows in ROWS.items():
        wanted = HUB_SETS[name]
        path = tmp_path / "hub" / wanted.repository / (wanted.config or "data") / "test-00000-of-00001.parquet"
        path.parent.mkdir(parents=True)
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)

    def info(self, repository, revision):
        folder = tmp_path / "hub" / repository
        names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=name) for name in ["x.py", *names]])

    def download(repository, name, repo_type, revision):
        assert (repo_type, revision) == ("dataset", COMMIT), "what was listed is what is read"
        downloaded.append((repository, name))
        return str(tmp_path / "hub" / repository / name)

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", info)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return downloaded


@pytest.mark.parametrize("name", HUB_SETS)
def test_every_set_becomes_documents_with_ids_of_their_own(name, hub, tmp_path):
    path = fetch(name, "test", tmp_path / "kept")
    assert path.name == f"{name}.test.{COMMIT[:12]}.jsonl.gz"
    found = list(records(path))
    assert found
    assert all(row["text"] and row["title"] for row in found)
    ids = [asked["id"] for row in found for asked in row.get("questions", ())]
    assert len(ids) == len(set(ids))
    assert all(bool(q["answers"]) != q.get("unanswerable", False) for row in found for q in row.get("questions", ()))


def test_questions_of_a_text_stand_together(hub, tmp_path):
    [book] = records(fetch("narrativeqa", "test", tmp_path))
    assert [asked["answers"] for asked in book["questions"]] == [["He", "She"]] * 2
    articles = list(records(fetch("quality", "test", tmp_path)))
    assert [len(article["questions"]) for article in articles] == [2, 1]
    assert articles[0]["questions"][0]["choices"][articles[0]["questions"][0]["gold_choice"]] == "c"


def test_annotators_answers(hub, tmp_path):
    [paper] = records(fetch("qasper", "test", tmp_path))
    assert [asked["answers"] for asked in paper["questions"]] == [["BLEU, ROUGE", "No"], []]
    assert "Intro\nOne.\nTwo.\n\nThree." in paper["text"]


def test_paragraphs_are_numbered_and_gold_ones_named(hub, tmp_path):
    [asked] = records(fetch("hotpotqa", "test", tmp_path))
    assert asked["text"] == "Passage 1:\nA\nOne. Two.\n\nPassage 2:\nB\nAnn."
    assert asked["questions"][0]["meta"]["gold_titles"] == ["B"]


def test_a_set_is_fetched_once(hub, tmp_path):
    first = fetch("quality", "test", tmp_path)
    raw = first.read_bytes()
    assert fetch("quality", "test", tmp_path) == first
    assert first.read_bytes() == raw
    assert len(hub) == 1


@pytest.mark.parametrize("trouble", [OSError("no route to host"), ValueError("Repository Not Found\nlong story")])
def test_without_a_hub_the_remedy_is_said(trouble, monkeypatch, tmp_path):
    def unreachable(*_, **__):
        raise trouble

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    with pytest.raises(UnreadableDocument, match="HF_HUB_OFFLINE"):
        fetch("qasper", "test", tmp_path)
    assert not list(tmp_path.iterdir())


def test_rows_of_another_form_leave_no_file(hub, tmp_path, monkeypatch):
    monkeypatch.setitem(HUB_SETS, "pg19", HUB_SETS["qasper"])
    [path] = (tmp_path / "hub" / "allenai" / "qasper" / "qasper").iterdir()
    parquet.write_table(pyarrow.Table.from_pylist([json.loads('{"other": 1}')]), path)
    with pytest.raises(UnreadableDocument, match="in the form"):
        fetch("pg19", "test", tmp_path / "kept")
    assert not [path for path in (tmp_path / "kept").iterdir() if not path.name.endswith(".part")]
