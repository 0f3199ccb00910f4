"""A certificate as a model card of the Hugging Face hub, and as lines for people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from yaml import YAMLError

from preread.certify import pictures
from preread.certify.causality import Causality
from preread.certify.certificate import Certificate
from preread.certify.verdicts import TOLERANCE, Regression, Share, Verdict
from preread.core.errors import UnreadableDocument, first_line
from preread.report.markdown import code, text
from preread.report.numbers import between, fixed, plain

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

CARD, NUMBERS = "README.md", "certificate.json"
BEGIN, END = "<!-- certificate: written by preread certify -->", "<!-- end of the certificate -->"
ALT = {
    pictures.POSITIONS: "Loss by position in the document",
    pictures.LENGTHS: "What each longer window changes for the same tokens",
    pictures.PASSKEY: "Passkeys by length and depth, and what was found in each window",
}


def write(certificate: Certificate, folder: Path, licence: str | None = None) -> Path:
    """Write card, numbers and pictures into a folder; the card's path.

    A card that is there keeps its words and what it says of the model; only the certificate in it is replaced.

    Args:
        certificate: what was found.
        folder: made if need be; other files in it stay as they are.
        licence: of the model, where it is known and the card does not say it.

    Raises:
        UnreadableDocument: the card that is there is no text with YAML in front.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = pictures.draw(certificate, folder)
    for stale in set(ALT) - set(drawn):
        (folder / stale).unlink(missing_ok=True)
    _replace(folder / NUMBERS, json.dumps(certificate.as_json(), indent=1, ensure_ascii=False) + "\n")
    _replace(folder / CARD, card(certificate, drawn, folder / CARD, licence))
    return folder / CARD


def card(certificate: Certificate, drawn: Sequence[str], before: Path, licence: str | None) -> str:
    """The whole card.

    Args:
        certificate: what was found.
        drawn: names of the pictures beside it.
        before: the card to go on from, if there is one.
        licence: as `write`.
    """
    try:
        made = _parsed(before.read_text(encoding="utf-8") if before.exists() else f"# {text(_name(certificate))}\n")
    except (ValueError, YAMLError) as error:
        raise UnreadableDocument(
            expected=f"a model card in {before}: text, with YAML in front or none",
            got=first_line(error),
            consequence="It was left as it is; the numbers are beside it.",
            remedy="Correct or remove it, and run the same command again.",
        ) from error
    known = {"base_model": _hub_name(certificate.base), "license": licence, "library_name": "transformers"}
    for key, value in (known | {"pipeline_tag": "text-generation"}).items():
        if value and not made.data.get(key):
            made.data[key] = value
    section = "\n".join([BEGIN, *section_lines(certificate, drawn), END])
    kept = re.sub(f"\n*{re.escape(BEGIN)}.*?{re.escape(END)}\n*", "\n\n", made.text, flags=re.DOTALL).strip("\n")
    return f"---\n{made.data.to_yaml()}\n---\n\n{kept}\n\n{section}\n"


def licence_of(folder: Path) -> str | None:
    """The licence that the model card in a folder names, if there is one."""
    try:
        found = _parsed((folder / CARD).read_text(encoding="utf-8")).data.get("license")
    except (OSError, ValueError, YAMLError):
        return None
    return str(found) if found else None


def section_lines(certificate: Certificate, drawn: Sequence[str]) -> Iterator[str]:
    """The certificate as Markdown."""
    it = certificate
    yield from ("## Certificate of the window", "", *(f"- {text(line)}" for line in summary(it)), "")
    yield from (f"![{ALT[name]}]({name})" for name in drawn)
    yield from ("", "### Loss behind longer windows", "", *_windows(it), "")
    if it.passkey or it.topics:
        yield from ("### What is found", "", *_shares(it), "")
    if it.regression:
        yield from ("### Short tasks beside the base", "", *_regressions(it.regression), "")
    yield from ("### Causality", "", *_causality(it.causality), "")
    if it.missing:
        yield from ("### Not measured", "", *(f"- {text(f'{one.part}: {one.why}')}" for one in it.missing), "")
    yield from ("### How it was taken", "", *_taken(it))


def summary(certificate: Certificate) -> list[str]:
    """The first sentences, each computed from the numbers."""
    it = certificate
    lines = [f"certified to {it.span.length:,} of {it.window:,} positions ({it.size}); before: {it.span.before:,}"]
    for name, found in (("by length", it.lengths), ("by position", it.positions)):
        if found:
            lines.append(f"{name}: {'; '.join(f'{one.window:,} {one.word}' for one in found)}")
    for name, shares in (("passkey", it.passkey), ("topics", it.topics)):
        if shares:
            least = min(shares, key=lambda share: share.value)
            lines.append(f"{name}: lowest share {least.value:.0%}, in the window of {least.window:,}")
    for one in it.regression:
        within = "within" if one.relative.value <= it.within else "not within"
        lines.append(f"{one.task}: {one.relative.value:+.1%} beside the base, {within} {it.within:.0%}")
    changed, compared = (sum(getattr(one, name) for one in it.causality) for name in ("changed", "compared"))
    lines.append(f"causality: {changed:,} of {compared:,} earlier positions changed")
    lines += [f"not measured: {one.part}" for one in it.missing]
    failed = [check for check in it.checks if not check.passed]
    lines += [f"failed: {check.name} {_measured(check.value)}, wanted {check.bound}" for check in failed]
    return lines


def _windows(it: Certificate) -> Iterator[str]:
    before = f"{it.span.before:,} positions ({it.span.origin})"
    yield f"Nats a token above those behind {before}, with 95 % intervals over documents."
    yield "By length: the same tokens. By position: the last quarter of each window, in the same documents."
    yield ""
    yield "| window | by length | | by position | |"
    yield "|---|---|---|---|---|"
    for window in it.span.windows[1:]:
        cells = [cell for found in (it.lengths, it.positions) for cell in _told(found, window)]
        yield f"| {window:,} | {' | '.join(cells)} |"
    yield ""
    yield (
        "**used**: the interval lies below 0. **survived**: it does not reach beyond "
        f"{TOLERANCE:g}. **broken**: it lies beyond. **undecided**: too little was judged."
    )


def _told(found: Sequence[Verdict], window: int) -> list[str]:
    for one in found:
        if one.window == window:
            difference = one.difference
            return [f"{difference.value:+.3f} ({between(difference.low, difference.high, 3)})", f"**{one.word}**"]
    return ["not measured", ""]


def _shares(it: Certificate) -> Iterator[str]:
    yield "Windows are filled but for the room of question and answer. Intervals are Wilson's, 95 %."
    yield from ("", "| window | passkey | topic |", "|---|---|---|")
    for window in sorted({share.window for share in (*it.passkey, *it.topics)}):
        yield f"| {window:,} | {_share(it.passkey, window)} | {_share(it.topics, window)} |"


def _share(shares: Sequence[Share], window: int) -> str:
    for one in shares:
        if one.window == window:
            return f"{one.right} of {one.asked} ({one.low:.0%} to {one.high:.0%})"
    return "not measured"


def _regressions(found: Sequence[Regression]) -> Iterator[str]:
    yield from ("| task | nats a token | base | difference | n |", "|---|---|---|---|---|")
    for one in found:
        low, high = 100 * one.relative.low, 100 * one.relative.high
        told = f"{100 * one.relative.value:+.2f} % ({between(low, high, 2)})"
        yield f"| {text(one.task)} | {fixed(one.own, 3)} | {fixed(one.base, 3)} | {told} | {one.relative.n:,} |"


def _causality(found: Sequence[Causality]) -> Iterator[str]:
    yield "All tokens from a place on are replaced; what stands before, in every row, must keep its states to the bit."
    yield from ("", "| dtype | mode | rows | compared | changed | places that changed |", "|---|---|---|---|---|---|")
    for one in found:
        rows = " + ".join(f"{row:,}" for row in one.rows) + ("" if one.padding == "none" else f", padded {one.padding}")
        heard = f"{one.heard} of {one.places}"
        yield f"| {one.dtype} | {one.mode} | {rows} | {one.compared:,} | {one.changed:,} | {heard} |"


def _taken(it: Certificate) -> Iterator[str]:
    facts = {
        "model": f"{it.model} ({it.fingerprint[:12]}, {it.dtype}, attention {it.attention})",
        "weights": it.weights,
        "base": it.base or "",
        "device": it.device,
        "commit": it.commit,
        "date": it.date,
    }
    yield from (f"- {name}: {text(told)}" for name, told in facts.items() if told)
    yield f"- numbers: [{NUMBERS}]({NUMBERS}), with every table behind them"
    if it.command:
        yield f"- again: {code(it.command)}"


def _parsed(words: str) -> ModelCard:
    """A card; one without front matter is given an empty one, of which the hub's library would complain."""
    from huggingface_hub import ModelCard

    return ModelCard(words if words.startswith("---") else f"---\n{{}}\n---\n\n{words}")


def _name(it: Certificate) -> str:
    return Path(it.model).name or it.model


def _hub_name(name: str | None) -> str | None:
    """A name that may stand in a card's front matter: the hub takes no paths."""
    return name.partition("@")[0] if name and re.fullmatch(r"[\w.-]+(/[\w.-]+)?(@[\w.-]+)?", name) else None


def _measured(value: float | None) -> str:
    return "was not measured" if value is None else plain(value)


def _replace(path: Path, words: str) -> None:
    half = path.with_name(path.name + ".part")
    half.write_text(words, encoding="utf-8")
    half.replace(path)
