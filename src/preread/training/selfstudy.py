"""Questions that a model writes about a text and answers from it, so that nobody has to label anything.

The kinds are those of Cartridges (Eyuboglu et al., arXiv 2506.06266, section 4.1). A small model invents: what it
writes is held against the text, and a number or name that the text does not have drops the question.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from preread.core.config import build
from preread.core.errors import PrereadError
from preread.core.memory import Memory
from preread.core.method import Handle
from preread.core.types import Passage, Sampling
from preread.data.questions import GENERAL, Question
from preread.engines.base import Engine, Event
from preread.training.checkpoint import no_room

KINDS: Mapping[str, str] = {
    "structure": "Write one short instruction that asks for some facts of the text above as a list. "
    "Name what the facts are about. Write the instruction alone.",
    "summary": "Write one short question that asks for a summary of what the text above says about somebody or "
    "something. Name them. Write the question alone.",
    "detail": "Write one short question about a detail of the text above, such as a name, a number or a place. "
    "Somebody who does not see the text must understand it. Write the question alone.",
    "use": "Write one short question that somebody would ask who needs what the text above says. "
    "Write the question alone.",
    "creative": "Write one short and unusual question that the text above inspires. Write the question alone.",
}
"""Kind of question -> what the model is asked to write behind the text."""
QUESTION_TOKENS, ANSWER_TOKENS = 48, 64
LONGEST = 40
"""Most words of a question; a longer one is the model talking."""
TASK = frozenset(("text", "passage", "question", "questions", "instruction", "instructions"))
"""A question with one of these words that the text has not is about what the model was told to do."""
FOREIGN = "a number or name that the text does not have"
LABEL = re.compile(r"^(?:[*#\s]|\d+[.)]|(?:question|instruction|q)\s*:)+", re.IGNORECASE)
"""What models put before a question."""
LISTED = re.compile(r"^\s*\d+[.)]\s", re.MULTILINE)
"""The number of an item of a list, which is no number of the text."""
TOKEN = re.compile(r"[^\W\d_]+|\d+(?:[.,]\d+)*")
"""A word without its apostrophe or hyphen, or a number."""
QUOTES = " \t“”‘’\"'(*_-"
"""What may stand between the end of a sentence and the next one's first word."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote about one piece of text.

    Args:
        questions: those that hold, with its answers.
        dropped: how many it wrote beside them, by what was wrong.
    """

    questions: tuple[Question, ...]
    dropped: dict[str, int]


def write(
    engine: Engine,
    teacher: Handle,
    passages: Sequence[Passage],
    seed: str,
    temperature: float,
    taken: Collection[str],
) -> Written:
    """Have a question of each kind written about some passages, and each answered from them, by the bare decoder.

    The text is read once: every prompt begins with it, and the engine keeps the beginning.

    Args:
        engine: of the decoder that the teacher is attached to.
        teacher: the method that reads text.
        passages: neighbours in a document.
        seed: decides what is drawn; the same one gives the same questions.
        temperature: of the questions; 0 takes the likeliest words. Answers always do.
        taken: questions that are there already, in lower case.
    """
    memories, source = list(teacher.encode(passages)), " ".join(passage.text for passage in passages)
    each = [
        Sampling(QUESTION_TOKENS, temperature, top_p=0.95, seed=random.Random(f"{seed}/{kind}").getrandbits(32))  # noqa: S311
        for kind in KINDS
    ]
    told = engine.complete([teacher.prompt(asked, memories) for asked in KINDS.values()], each)
    asked: dict[str, str] = {}
    dropped: Counter[str] = Counter()
    for kind, event in zip(KINDS, told, strict=True):
        question = first_question(event.text)
        seen = {*taken, *(one.casefold() for one in asked.values())}
        if fault := _fault(kind, question, source, seen):
            dropped[fault] += 1
        else:
            asked[kind] = question
    questions = []
    answers = _answers(engine, teacher, list(asked.values()), memories)
    for (kind, question), answer in zip(asked.items(), answers, strict=True):
        if not answer or answer.casefold() in question.casefold() or question.casefold() in answer.casefold():
            dropped["no answer"] += 1
        elif unsupported(answer, source):
            dropped[FOREIGN] += 1
        else:
            questions.append(Question(question, answer, kind))
    return Written(tuple(questions), dict(dropped))


def answer_general(engine: Engine, teacher: Handle, questions: Sequence[str]) -> Written:
    """Have questions about the world answered by the bare decoder, with nothing before them."""
    answers = _answers(engine, teacher, questions, [])
    found = [Question(question, answer, GENERAL) for question, answer in zip(questions, answers, strict=True) if answer]
    return Written(tuple(found), {})


def first_question(text: str) -> str:
    """The first line that says something, without a label or quotation marks around it."""
    lines = (LABEL.sub("", line).strip(QUOTES) for line in text.splitlines())
    return next((" ".join(line.split()) for line in lines if line and not line.endswith(":")), "")


def unsupported(text: str, source: str) -> list[str]:
    """Numbers, and capitalised words inside a sentence, that a text has and its source does not, in any case."""
    known = {_plain(token) for token in TOKEN.findall(source)}
    text = LISTED.sub("\n", text)
    found = []
    for match in TOKEN.finditer(text):
        word, before = match.group(), text[: match.start()].rstrip(QUOTES)
        begins = not before or before[-1] in ".!?:\n"
        telling = word[0].isdigit() or (word[0].isupper() and not begins and word != "I")
        if telling and _plain(word) not in known:
            found.append(word)
    return found


def load(path: Path) -> list[Written]:
    """What a stopped run wrote, up to the first line that is not whole, behind which the file is cut."""
    if not path.exists():
        return []
    found, lines = [], path.read_bytes().splitlines(keepends=True)  # text would end lines at letters such as U+2028
    for line in lines:
        try:
            if not line.endswith(b"\n"):
                break
            found.append(build(Written, json.loads(line)))
        except (ValueError, TypeError, PrereadError):
            break
    if len(found) < len(lines):
        half = path.with_name(f"{path.name}.part")
        half.write_bytes(b"".join(lines[: len(found)]))
        half.replace(path)
    return found


def keep(path: Path, written: Written) -> None:
    """Put what was written behind what the file holds.

    Raises:
        PrereadError: the run's folder was removed, as forgetting a document does.
        ResourceError: the disk is full.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(written), ensure_ascii=False) + "\n")
    except FileNotFoundError as error:
        raise PrereadError(
            expected=f"the run's folder {path.parent}",
            got="nothing: it was removed while questions were written",
            consequence="The study stopped and keeps nothing.",
            remedy="Start it again; documents may have been forgotten meanwhile.",
        ) from error
    except OSError as error:
        raise no_room(path.parent, error) from error


def _fault(kind: str, question: str, source: str, taken: Collection[str]) -> str | None:
    """What is wrong with a question, or None."""
    if len(question.split()) > LONGEST or question[-1:] not in (*".?!", ""):
        return "too long or unfinished"
    if len(question.split()) < 3 or (kind != "structure" and not question.endswith("?")):
        return "nothing asked"
    if TASK & {_plain(word) for word in TOKEN.findall(question)} - {_plain(word) for word in TOKEN.findall(source)}:
        return "about the task"
    if question.casefold() in taken:
        return "asked before"
    return FOREIGN if unsupported(question, source) else None


def _answers(engine: Engine, teacher: Handle, questions: Sequence[str], memories: Sequence[Memory]) -> list[str]:
    """The likeliest answers; one that ran out of tokens up to its last whole sentence, and empty if it has none."""
    if not questions:
        return []
    told = engine.complete([teacher.prompt(one, memories) for one in questions], Sampling(ANSWER_TOKENS))
    return [_whole(event) for event in told]


def _whole(event: Event) -> str:
    text = event.text.strip()
    return text if event.finish == "stop" else text[: max(text.rfind(end) for end in ".!?") + 1]


def _plain(token: str) -> str:
    return token.replace(",", "").casefold()
