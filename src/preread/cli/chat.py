"""`chat`: one question after the other, each with the turns before it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from preread.cli.app import (
    AnyCollectionOption,
    JsonOption,
    LibraryOption,
    MaxTokensOption,
    MethodOption,
    ModeOption,
    PassagesOption,
    StrictOption,
    app,
    complain,
    emit,
    open_collection,
    say,
    write,
)
from preread.cli.questions import mode_of
from preread.core.errors import WindowExceeded


@app.command()
def chat(
    collection: AnyCollectionOption = None,
    method: MethodOption = None,
    mode: ModeOption = None,
    passages: PassagesOption = 5,
    strict: StrictOption = False,
    max_tokens: MaxTokensOption = 128,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Answer one question a line from stdin, each in the light of those before it; an empty line or the end stops.

    Example: preread chat --collection work
    """
    from preread import render
    from preread.core.types import Sampling, Turn
    from preread.library import Library

    asked = open_collection(library, collection) if collection is not None else Library(library)
    history: list[Turn] = []
    for question in _questions():
        try:
            answer = asked.ask(
                question,
                method,
                mode_of(mode),
                passages,
                Sampling(max_tokens),
                (lambda _: None) if json_ else write,
                history,
                strict,
                (lambda _: None) if json_ else lambda doubt: write(doubt + "\n"),
            )
        except WindowExceeded as error:  # a shorter question may follow
            complain(error, json_, about=question)
            continue
        emit(answer, json_, lambda a: "\n" + render.sources(a))
        if answer.text:
            history.append(Turn(question, answer.text))


def _questions() -> Iterator[str]:
    """Lines of stdin up to an empty one; a person at a terminal sees where to type."""
    seen_by_someone = sys.stdin.isatty()
    if seen_by_someone:
        say("One question a line; an empty line ends.")
    while True:
        if seen_by_someone:
            sys.stderr.write("> ")
            sys.stderr.flush()
        question = sys.stdin.readline().strip()
        if not question:
            return
        yield question
