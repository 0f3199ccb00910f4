"""Plain text and Markdown: bytes in any encoding, and the lines that are clearly headings."""

from __future__ import annotations

import codecs
import re
from itertools import accumulate, pairwise

from preread.core.types import Mark
from preread.data.readers.reading import NO_TEXT, Reading, Refused, clean, short_enough

BYTE_ORDER_MARKS = (  # UTF-32's first: its little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WIDER = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "big5": "big5hkscs",
}
"""What pages that declare an encoding are in fact written in (WHATWG Encoding Standard, names and labels)."""
CHARSET = re.compile(rb"<(?:meta[^>]+charset|\?xml[^>]+encoding)\s*=\s*[\"']?([\w-]+)", re.IGNORECASE)

ROMAN = r"(?=[IVXLC])C{0,3}(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})"
NUMBERED = rf"(?:CHAPTER|Chapter|BOOK|Book|PART|Part|VOLUME|Volume)[ ]+(?:{ROMAN}|\d{{1,3}})"
CHAPTER = re.compile(rf"{NUMBERED}(?:[.:]?|[.:—–-]+[ ]*\S.{{0,80}})")
CHAPTER_ALONE = re.compile(rf"{NUMBERED}[.:]?")
NUMERAL = re.compile(rf"{ROMAN}\.?")
UNDERLINE = re.compile(r"([=\-~^\"*#])\1{2,}")
FRONT_MATTER = re.compile(r"\A---\n(.*?\n)---\n", re.DOTALL)


def plain(raw: bytes, charset: str) -> Reading:
    """Plain text; underlined lines and chapter headings are its sections."""
    text = clean(decode(raw, charset))
    lines = text.split("\n")
    starts = list(accumulate((len(line) + 1 for line in lines), initial=0))
    marks, title = [], ""
    for number, line in enumerate(lines):
        kind = _heading(lines, number)
        if kind:
            indent = len(line) - len(line.lstrip())
            marks.append(Mark(starts[number] + indent, "section", line.strip()))
            title = title or (line.strip() if kind == "underlined" else "")
    return Reading(text, tuple(marks), title)


def _heading(lines: list[str], number: int) -> str:
    """Whether a line is clearly a heading: `underlined`, `chapter`, or nothing. In doubt it is not."""
    line = lines[number].strip()
    if not line or len(line) > 120:
        return ""
    before = lines[number - 1].strip() if number else ""
    after = lines[number + 1].rstrip() if number + 1 < len(lines) else ""
    framed = not before or before == after  # an overline, as reStructuredText has for titles
    if framed and UNDERLINE.fullmatch(after) and len(after) >= len(line) and not UNDERLINE.fullmatch(line):
        return "underlined" if lines[number][0] != " " or before == after else ""
    if not before and (CHAPTER.fullmatch(line) or (not after and NUMERAL.fullmatch(line))):
        return "chapter"
    ended = before.endswith((".", "!", "?", '"', "”", "*"))  # so the line does not run on from the one before
    return "chapter" if ended and CHAPTER_ALONE.fullmatch(line) else ""


def markdown(raw: bytes, charset: str) -> Reading:
    """Markdown as it is written; its headings are its sections."""
    from markdown_it import MarkdownIt

    text = clean(decode(raw, charset))
    front = FRONT_MATTER.match(text)
    body = front.end() if front else 0
    parser = MarkdownIt("commonmark")
    words = MarkdownIt("commonmark").parseInline
    starts = list(accumulate((len(line) + 1 for line in text[body:].split("\n")), initial=body))
    tokens = parser.disable("inline").parse(text[body:])  # only headings need their inline markup read
    marks = []
    for token, content in pairwise(tokens):
        if token.type == "heading_open" and token.level == 0 and token.map:
            shown = [part.content or " " for part in words(content.content)[0].children or [] if not part.nesting]
            marks.append(Mark(starts[token.map[0]], "section", " ".join("".join(shown).split())))
    title = re.search(r"^title:[ \t]*(.+)$", front[1], re.MULTILINE) if front else None
    named = title[1].strip().strip("\"'") if title else ""
    return Reading(text, tuple(marks), named or (marks[0].label if marks else ""))


def decode(raw: bytes, charset: str = "") -> str:
    """Text by byte order mark, else by what is declared, else UTF-8, else the likeliest encoding.

    Raises:
        Refused: binary data, bytes in no encoding, or too many characters.
    """
    encodings = [name for mark, name in BYTE_ORDER_MARKS if raw.startswith(mark)][:1]
    if not encodings and b"\0" in raw:
        raise Refused("text (as its suffix says)", "binary data", "Check that this is the right file.")
    for encoding in encodings or [*_known(charset), "utf-8"]:
        try:
            text = raw.decode(encoding)
        except (UnicodeError, LookupError):
            continue
        short_enough(len(text))
        return text
    short_enough(len(raw) // 4)  # before it is guessed over: no encoding takes more bytes a character
    from charset_normalizer import from_bytes

    guesses = from_bytes(raw)
    best = guesses.best()
    # Kin of it give the same words with other accents; where it reads as well, Western European is by far likelier.
    western = [guess for guess in guesses if guess.encoding == "cp1252" and best and guess.coherence >= best.coherence]
    likeliest = western[0] if western else best
    text = str(likeliest) if likeliest else ""
    if not text or sum(1 for _ in NO_TEXT.finditer(text)) > len(text) / 100:
        raise Refused("text in a known encoding", "bytes in none", "Save it as UTF-8.")
    short_enough(len(text))
    return text


def declared(raw: bytes) -> str:
    """The encoding that a page's own head or XML declaration names, or an empty string."""
    found = CHARSET.search(raw[:4096])
    return found[1].decode() if found else ""


def _known(charset: str) -> list[str]:
    try:
        name = codecs.lookup(charset).name
    except (LookupError, ValueError):
        return []
    return [WIDER.get(name, name)]
