"""The papers' own data sets by name, from a hub, in the project's format: JSON lines of documents with questions.

Only parquet files are read, which hold data and no code; a set whose repository has a loading script is read from the
parquet branch that the hub makes of it. The commit that was read is a part of the file's name.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from preread.core.errors import UnreadableDocument, first_line
from preread.core.progress import progress

Row = Mapping[str, Any]
CONVERTED = "refs/convert/parquet"


@dataclass(frozen=True, slots=True)
class HubSet:
    """Where a data set is, and how its rows become documents.

    Args:
        repository: on the hub.
        documents: rows, in order -> documents in the project's format.
        revision: branch, tag or commit.
        config: part of the repository that is read, as its folder is called; empty where there is one alone.
    """

    repository: str
    documents: Callable[[Iterable[Row]], Iterator[dict[str, Any]]]
    revision: str = "main"
    config: str = ""


def narrativeqa(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """A row a question, each with its whole book; consecutive rows of a book become one document."""
    for name, own in groupby(rows, key=lambda row: row["document"]["id"]):
        asked = list(own)
        questions = [
            _question(f"{name}-{i}", row["question"]["text"], [answer["text"] for answer in row["answers"]])
            for i, row in enumerate(asked)
        ]
        document = asked[0]["document"]
        yield _document(f"narrativeqa-{name}", document["summary"]["title"], document["text"], questions)


def qasper(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """A row a paper; an answer is its spans, its free form, or yes or no; none where no annotator found one."""
    for row in rows:
        full = row["full_text"]
        sections = [
            "\n".join(filter(None, [title, *paragraphs]))
            for title, paragraphs in zip(full["section_name"], full["paragraphs"], strict=True)
        ]
        text = "\n\n".join([row["title"], row["abstract"], *sections])
        qas = row["qas"]
        questions = [
            _question(key, asked, list(filter(None, map(_qasper_answer, found["answer"]))))
            for key, asked, found in zip(qas["question_id"], qas["question"], qas["answers"], strict=True)
        ]
        yield _document(f"qasper-{row['id']}", row["title"], text, questions)


def quality(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """A row a question with its article and four options; the rows of an article become one document."""
    articles: dict[str, list[Row]] = {}
    for row in rows:
        articles.setdefault(row["article"], []).append(row)
    for number, (text, asked) in enumerate(articles.items()):
        questions = [
            {
                **_question(f"quality-{number}-{i}", row["question"], [row["options"][row["answer"]]]),
                "choices": list(row["options"]),
                "gold_choice": int(row["answer"]),
            }
            for i, row in enumerate(asked)
        ]
        yield _document(f"quality-{number}", " ".join(text.split()[:8]), text, questions)


def hotpotqa(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """A row a question with its ten paragraphs, numbered as the question set `hotpotqa_distractor` has them."""
    for row in rows:
        context = row["context"]
        paragraphs = [
            f"Passage {i}:\n{title}\n{''.join(sentences)}"
            for i, (title, sentences) in enumerate(zip(context["title"], context["sentences"], strict=True), start=1)
        ]
        gold = list(dict.fromkeys(row["supporting_facts"]["title"]))
        question = {**_question(row["id"], row["question"], [row["answer"]]), "meta": {"gold_titles": gold}}
        yield _document(f"hotpotqa-{row['id']}", row["question"], "\n\n".join(paragraphs), [question])


def pg19(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """A row a book, as running text."""
    for row in rows:
        title = row["short_book_title"]
        yield {"doc_id": f"pg19-{title}-{row['publication_date']}", "title": title, "text": row["text"]}


HUB_SETS: Mapping[str, HubSet] = {
    "narrativeqa": HubSet("deepmind/narrativeqa", narrativeqa),
    "qasper": HubSet("allenai/qasper", qasper, CONVERTED, "qasper"),
    "quality": HubSet("emozilla/quality", quality),
    "hotpotqa": HubSet("hotpotqa/hotpot_qa", hotpotqa, CONVERTED, "distractor"),
    "pg19": HubSet("emozilla/pg19-test", pg19),
}
"""By the name that recipes use, where no file of that name is in the data folder."""


def fetch(name: str, split: str, folder: Path) -> Path:
    """A data set of the hub as a file of the project's format; fetched once, an interrupted download goes on.

    Args:
        name: in `HUB_SETS`.
        split: as the repository calls it: `test`, `validation`, `train`.
        folder: where the file is kept.

    Raises:
        UnreadableDocument: no hub, no such split, or rows of another form than known.
    """
    wanted = HUB_SETS[name]
    try:
        commit, files = _files(wanted, split)
        path = folder / f"{name}.{split}.{commit[:12]}.jsonl.gz"
        if not path.exists():
            _convert(wanted, commit, files, path)
    except Exception as error:  # the hub's client, the network and the parquet reader have trees of their own
        raise UnreadableDocument(
            expected=f"split {split} of {wanted.repository} on the hub, in the form that it has been known to have",
            got=first_line(error),
            consequence="Nothing was judged.",
            remedy="Check the network and HF_HUB_OFFLINE, or put a file in the format of docs/evaluation.md in --data.",
        ) from error
    return path


def _files(wanted: HubSet, split: str) -> tuple[str, list[str]]:
    """The commit that is read, and its files of the split."""
    from huggingface_hub import HfApi

    found = HfApi().dataset_info(wanted.repository, revision=wanted.revision)
    names = sorted(file.rfilename for file in found.siblings or () if file.rfilename.endswith(".parquet"))
    inside = [name for name in names if not wanted.config or wanted.config in Path(name).parts]
    files = [name for name in inside if split in (Path(name).parent.name, Path(name).name.split("-")[0])]
    if not files or not found.sha:
        raise FileNotFoundError(f"no such split among {', '.join(inside) or 'no files'}")
    return found.sha, files


def _convert(wanted: HubSet, commit: str, files: list[str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    with gzip.open(half, "wt", encoding="utf-8") as out, progress(f"converting {wanted.repository}", None) as advance:
        for document in wanted.documents(_rows(wanted, commit, files)):
            out.write(json.dumps(document, ensure_ascii=False) + "\n")
            advance()
    half.replace(path)


def _rows(wanted: HubSet, commit: str, files: list[str]) -> Iterator[Row]:
    from huggingface_hub import hf_hub_download
    from pyarrow.parquet import ParquetFile

    for name in files:
        local = hf_hub_download(wanted.repository, name, repo_type="dataset", revision=commit)
        for batch in ParquetFile(local).iter_batches(batch_size=64):
            yield from batch.to_pylist()


def _document(name: str, title: str, text: str, questions: list[dict[str, Any]]) -> dict[str, Any]:
    return {"doc_id": name, "title": title, "text": text, "questions": questions}


def _question(name: str, text: str, answers: list[str]) -> dict[str, Any]:
    return {"id": name, "question": text, "answers": answers, **({} if answers else {"unanswerable": True})}


def _qasper_answer(found: Row) -> str:
    """One annotator's answer; empty where the paper has none."""
    if found["unanswerable"]:
        return ""
    spans = ", ".join(found["extractive_spans"])
    yes_no = {True: "Yes", False: "No"}.get(found["yes_no"], "")
    return spans or str(found["free_form_answer"]) or yes_no
