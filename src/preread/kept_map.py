"""What a quiz found, as lines for a terminal and as a page: a map of what memory kept, page by page."""

from __future__ import annotations

from preread import render
from preread.collection.kept import Kept
from preread.collection.quiz import Page, Probed, Quiz
from preread.core.paths import in_one_line
from preread.html import standalone

BAR = 20
"""Characters of a full bar."""
PLACE = 28


def lines(quiz: Quiz) -> str:
    """A line a page with a bar, then what it comes to."""
    found: list[str] = []
    several = len({page.source for page in quiz.pages}) > 1
    title = None
    for page in quiz.pages:
        if several and page.source != title:
            title = page.source
            found.append(in_one_line(page.title))
        found.append(_line(page))
    return "\n".join([*found, *told(quiz)])


def told(quiz: Quiz) -> list[str]:
    """What the map comes to, a sentence a line."""
    kinds = ", ".join(f"{kind} {share(one)} of {one.questions:,}" for kind, one in quiz.kinds.items())
    asked = f"{render.count(quiz.asked, 'passage')} of {quiz.passages:,} asked"
    said = [f"{headline(quiz)} ({kinds or 'no questions'}); {asked}"]
    if quiz.unmeasured:
        said.append(f"unmeasured: {render.count(quiz.unmeasured, 'passage')} whose text does not help to answer")
    if quiz.as_text:
        part = f"{render.count(quiz.as_text, 'passage')} ({quiz.text_tokens / quiz.tokens:.1%} of the tokens)"
        rest = "" if quiz.with_text is None else f": {quiz.with_text:.0%} is kept where a search finds them"
        said.append(f"from now on text: {part}{rest}")
    if quiz.left:
        said.append(f"not asked yet: {render.count(quiz.left, 'passage')}; the same command goes on")
    if quiz.unplaced:
        said.append(f"left out: {render.count(quiz.unplaced, 'labelled question')} that a search finds no passage for")
    if quiz.passed is False:
        below = [one for page in quiz.pages for one in page.passages if _is_below(one, quiz.min_kept)]
        rest = (
            f"; {render.count(len(below), 'such passage')} stay memory, for --keep-text allows no more" if below else ""
        )
        said.append(f"below the bar of {quiz.min_kept:.0%}{rest}")
    return said


def headline(quiz: Quiz) -> str:
    """What memory keeps of all that was asked, in words."""
    if quiz.kept.value is None:
        return "what memory keeps could not be measured"
    return f"memory keeps {interval(quiz.kept)} of what the text tells"


def page(quiz: Quiz) -> str:
    """The whole page."""
    return standalone(
        "quiz", it=quiz, share=share, interval=interval, length=length, headline=headline(quiz), told=told(quiz)
    )


def share(kept: Kept) -> str:
    """A share in words."""
    return "unmeasured" if kept.value is None else f"{kept.value:.0%}"


def interval(kept: Kept) -> str:
    """A share with its interval, where there is one."""
    ends = "" if kept.low is None or kept.high is None else f" ({kept.low:.0%} to {kept.high:.0%})"
    return share(kept) + ends


def length(kept: Kept, full: float) -> float:
    """How long a bar is; one for less than nothing, or for what is not known, is empty."""
    return round(full * min(1.0, max(0.0, kept.value or 0.0)), 2)


def _is_below(passage: Probed, bar: float) -> bool:
    """Whether a passage is below the bar and stays memory."""
    return passage.kept.value is not None and passage.kept.value < bar and not passage.as_text


def _line(page: Page) -> str:
    stay = sum(one.as_text for one in page.passages)
    full = round(length(page.kept, BAR))
    notes = [f"{stay} of {render.count(len(page.passages), 'passage')} stay text"] if stay else []
    notes += ["not asked"] if not page.kept.questions else []
    place = in_one_line(page.place)
    bar = "#" * full + "." * (BAR - full)
    return f"  {place:<{PLACE}.{PLACE}} {bar} {share(page.kept):>10}  {'; '.join(notes)}".rstrip()
