"""Tokens to text as they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

HALF = "\ufffd"
"""What decoding gives for the bytes of a character that is not complete."""


class Characters:
    """Turns token ids into text piece by piece; a character of several tokens comes with its last one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = self._given = 0  # ids[start:given] is given out and the context of what comes next

    def push(self, token: int) -> str:
        """The text that became whole with this token."""
        self._ids.append(token)
        piece = self._rest()
        if not piece or piece.endswith(HALF):
            return ""
        self._start, self._given = self._given, len(self._ids)
        return piece

    def flush(self) -> str:
        """What is left, without a last character that never became whole."""
        return self._rest().rstrip(HALF)

    def _rest(self) -> str:
        given = self._decode(self._ids[self._start : self._given])
        return self._decode(self._ids[self._start :])[len(given) :]

    def _decode(self, ids: Sequence[int]) -> str:
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str), "one sequence decodes to one text"
        return text


class Stops:
    """Passes text on up to the first stop string that is completed; holds back what may be the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.met = False

    def push(self, piece: str) -> str:
        """The part of the text so far that certainly belongs to the answer; sets `met` at a stop string."""
        text, self._held = self._held + piece, ""
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self.met = True
            return text[: min(found)[1]]
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                self._held = text[-length:]
                return text[:-length]
        return text

    def flush(self) -> str:
        """What was held back and turned out to be no stop string."""
        text, self._held = self._held, ""
        return text
