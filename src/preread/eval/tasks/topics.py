"""Topic retrieval: a long conversation about one topic after another, and which the first was (LongEval's form).

The conversations are generated from a few sentences, so that a topic's name is all that tells them apart.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

from preread.core.errors import UsageError
from preread.core.types import Document
from preread.eval.case import Case, Item
from preread.eval.kit import Kit
from preread.eval.tasks.haystack import Generated, Hay, buried

ASPECTS = (
    "history future economics ethics teaching beauty dangers psychology politics science geography craft "
    "regulation popularity rituals language symbolism chemistry legends taxation"
)
SUBJECTS = (
    "glass bridges beekeeping lighthouses volcanoes chess bread clocks deserts opera railways whales coffee maps "
    "vaccines gardens satellites dreams kites paper rivers puppets earthquakes wool museums insects harbours "
    "telescopes salt mountains libraries bicycles glaciers perfume orchestras mushrooms canals robots spices "
    "markets"
)
BEFORE = (
    "Below is a record of our previous conversation on several topics. You are the ASSISTANT, and I am the USER. "
    "At the beginning of each topic, the USER will say 'I would like to discuss the topic of <TOPIC>'. "
    "Memorize each <TOPIC>. At the end of the record, I will ask for the first topic. Now the record starts.\n\n"
)
QUESTION = "Now the record ends. What is the first topic that we discussed? Only give me the topic name."
OPENING = "USER: I would like to discuss the topic of {topic}.\n"
WELCOME = "ASSISTANT: Sure! What would you like to know about it?\n"
ASKED = (
    "What got people interested in this in the first place?",
    "Which mistakes do beginners make most often?",
    "How has this changed during the last twenty years?",
    "Is there something that experts still disagree about?",
    "How does it touch the lives of ordinary people?",
    "What would you read first to learn more?",
)
SAID = (
    "Much of it goes back to people who had a practical problem and little time.",
    "There is no single answer, because it depends on the place and on the people.",
    "The cost has fallen over the years, and that has brought new people to it.",
    "Some say that the old ways were better, though the numbers do not bear that out.",
    "A good teacher makes more of a difference here than any book.",
    "What looks simple from outside turns out to have many parts.",
    "In several countries there are now clubs and journals for it.",
    "The hardest part is to know when to stop.",
    "A great deal was found by accident and understood only later.",
    "Weather and money decide more than most people think.",
)
TURNS = 4
"""Questions and answers about a topic."""
SHORTEST = 200
"""Tokens of a whole topic in any tokenizer."""


@dataclass(frozen=True)
class Topics(Generated):
    """One conversation a case."""

    kind: ClassVar[str] = "topics"

    @property
    def label(self) -> str:
        """As tables name it."""
        return "topic retrieval"

    @property
    def max_tokens(self) -> int:
        """Room for a sentence."""
        return 32

    def cases(self, kit: Kit, length: int, name: str, draw: random.Random) -> Iterator[Case]:
        """One conversation of about `length` tokens; it ends behind any sentence.

        Raises:
            UsageError: there are too few topics for the length.
        """
        topics = [f"the {aspect} of {subject}" for aspect, subject in product(ASPECTS.split(), SUBJECTS.split())]
        wanted = 2 + length // SHORTEST
        if wanted > len(topics):
            raise UsageError(
                expected=f"a length of at most {SHORTEST * (len(topics) - 2):,} tokens for topic retrieval",
                got=f"{length:,}",
                consequence="Nothing was judged.",
                remedy="Change the task's lengths.",
            )
        drawn = draw.sample(topics, wanted)
        hay = Hay.of_records([line for topic in drawn for line in _conversation(topic, draw)])
        text, _ = buried(kit.decoder, hay, [], length, BEFORE)
        span = (len(BEFORE), len(BEFORE) + len(OPENING.format(topic=drawn[0])))
        answer, at = drawn[0].removeprefix("the "), (("length", length),)
        item = Item(name, QUESTION, (answer,), evidence=(span,), at=at, query=QUESTION)
        yield Case(name, Document(name, self.label, text), (item,))


def _conversation(topic: str, draw: random.Random) -> Iterator[str]:
    """A topic's sentences."""
    yield OPENING.format(topic=topic)
    yield WELCOME
    for question in draw.sample(ASKED, TURNS):
        yield f"USER: {question}\n"
        first, *between, last = draw.sample(SAID, 3)
        yield f"ASSISTANT: {first} "
        yield from (f"{line} " for line in between)
        yield f"{last}\n"
