"""Which language a text is in, where that is certain; and a warning where a model does not know it.

Precision before recall: a text that is short, or mostly code, tables or names, is in no language here. The detector is
py3langid (langid.py, Lui and Baldwin 2012), which needs no network.
"""

from __future__ import annotations

import re
import warnings
from functools import cache
from typing import Any

from preread.core.errors import UnknownLanguage

KNOWN = {"smollm2-135m-instruct": frozenset({"en"}), "all-MiniLM-L6-v2": frozenset({"en"})}
"""Languages of the models that are packaged, by their names; of others nothing is known, and nothing is said."""

SAMPLES, SAMPLE = 9, 1_000
"""A long text is judged by so many pieces of so many characters, evenly spread."""
LEAST_LETTERS = 25
"""Fewer letters of the Latin script are no evidence: names alone decide them."""
LEAST_FOREIGN = 6
"""So many letters of another script are evidence enough that a text is not in a language of the Latin one."""
CERTAIN = 0.9
"""Probability below which the detector is not believed. Of 19,817 English questions it took none for another language
above 0.73; by the rules here none of those questions, and none of 3,385 English documents, is taken for one. Among
languages of one other script it need not be sure: whichever it is, it is not a Latin one.
"""
AGREED = 0.75
"""Share of the pieces that must agree."""

_LETTER = re.compile(r"[^\W\d_]")
_SYMBOL = re.compile(r"[\d_{}\[\]<>=|\\/*#@$%^&+~`]")


def language(text: str) -> str | None:
    """The ISO 639-1 code of a text's language, or None where it is not certain."""
    pieces = _pieces(_prose(text))
    found = [code for code in map(_certain, pieces) if code is not None]
    best = max(set(found), key=found.count, default=None)
    return best if best is not None and found.count(best) >= AGREED * len(pieces) else None


def warn_of_language(text: str, what: str, models: list[str]) -> None:
    """Warn (`UnknownLanguage`) where a text is in a language that one of the models does not know.

    Args:
        text: the text.
        what: what to call it in the warning.
        models: names of the models that read it, a dtype behind them or not.
    """
    limited = {name: KNOWN[name.partition(":")[0]] for name in models if name.partition(":")[0] in KNOWN}
    if not limited or (code := language(text)) is None:
        return
    if strangers := [name for name, known in limited.items() if code not in known]:
        known = ", ".join(sorted(frozenset.intersection(*(limited[name] for name in strangers))))
        know = f"{' and '.join(strangers)} {'know' if len(strangers) > 1 else 'knows'}"
        message = f"{what} seems to be in {code!r}; {know} {known!r} only: answers may be poor."
        warnings.warn(message, UnknownLanguage, stacklevel=2)


def _prose(text: str) -> str:
    """The lines that read like sentences: code, tables and formulas say little of a language."""
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if _reads_like_words(line))


def _reads_like_words(line: str) -> bool:
    return len(_SYMBOL.findall(line)) <= 0.1 * len(line)


def _pieces(text: str) -> list[str]:
    if len(text) <= SAMPLES * SAMPLE:
        return [text[start : start + SAMPLE] for start in range(0, max(1, len(text)), SAMPLE)]
    step = (len(text) - SAMPLE) / (SAMPLES - 1)
    return [text[int(i * step) : int(i * step) + SAMPLE] for i in range(SAMPLES)]


def _certain(piece: str) -> str | None:
    letters = _LETTER.findall(piece)
    foreign = sum(ord(letter) > 0x24F for letter in letters)
    other_script = foreign >= max(LEAST_FOREIGN, len(letters) / 2)
    if not other_script and len(letters) < LEAST_LETTERS:
        return None
    code, probability = _identifier().classify(piece)
    return str(code) if other_script or probability >= CERTAIN else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
