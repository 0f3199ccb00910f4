"""Results as text for people; `--json` is for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preread.core.answer import Answer, Citation, Extent
from preread.core.paths import in_one_line
from preread.render_study import studied

if TYPE_CHECKING:
    from preread.collection.intake import Added
    from preread.collection.states import Status
    from preread.collection.sync import Synced
    from preread.compare import Comparison
    from preread.core.defaults import Chosen
    from preread.demo import Asked, Demo
    from preread.doctor import Finding
    from preread.models.loading import Fetched
    from preread.store.receipt import Receipt

WIDTH = 100
BEGINNING = 60
"""Characters of a passage that show which it is."""


def count(number: int, what: str) -> str:
    """`1 passage`, `2,000 passages`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def added(result: Added) -> str:
    """One line of `add`."""
    entry = result.entry
    size = f"{count(entry.tokens, 'token')} in {count(entry.passages, 'passage')}"
    line = f"{result.change}: {in_one_line(entry.title)} ({in_one_line(entry.source)}), {size}"
    if result.positions:
        line += f", memory of {result.positions:,} positions ({entry.tokens / result.positions:.1f}x fewer)"
    return f"{line}, {result.seconds:.1f} s"


def citation(cited: Citation) -> str:
    """Where a citation points, and how its passage begins."""
    place = f"{cited.place}, " if cited.place else ""
    return f"{in_one_line(cited.title)}, {place}characters {cited.start:,}-{cited.end:,}: {_begin(cited.text)}"


def usage(answer: Answer) -> str:
    """What an answer cost."""
    use = answer.usage
    return (
        f"read {use.tokens_read:,} positions standing for {use.tokens_of_source:,} tokens of text, out of "
        f"{use.tokens_of_documents:,} in those documents; first token {use.first_token_s:.2f} s, "
        f"then {1000 * use.per_token_s:.0f} ms a token, {use.tokens_written} tokens"
    )


def answer(given: Answer) -> str:
    """The whole of an answer, a doubt before it."""
    return "\n".join([line for line in (given.doubt, given.text) if line] + [sources(given)])


def sources(answer: Answer) -> str:
    """Citations, what was read, cost and notes of an answer."""
    lines = [f"  [{i}] {citation(cited)}" for i, cited in enumerate(answer.citations, start=1)]
    lines += [f"  {line}" for line in (*read(answer), *chosen(answer))]
    if answer.finish != "withheld":
        lines.append(f"  {answer.method}: {usage(answer)}")
    return "\n".join([*lines, *(f"  note: {note}" for note in answer.notes)])


def read(answer: Answer) -> list[str]:
    """Which parts of which documents were read as text, as memory, and not at all: a line each, where there are any."""
    lines = []
    for how, name in (("as text", "text"), ("as memory", "memory"), ("not read", "unread")):
        parts = [(one, extent) for one in answer.read if (extent := getattr(one, name)).tokens]
        read = [one.text.tokens + one.memory.tokens > 0 for one, _ in parts]
        known = [part for part, some in zip(parts, read, strict=True) if some]
        shown = [
            f"{in_one_line(one.title)}, {_places(extent)} ({count(extent.tokens, 'token')})" for one, extent in known
        ]
        if others := [extent.tokens for (_, extent), some in zip(parts, read, strict=True) if not some]:
            more = "more document" if shown else "document"
            shown.append(f"{count(len(others), more)} ({count(sum(others), 'token')})")
        lines += [f"{how}: {'; '.join(shown)}"] if shown else []
    return lines


def chosen(answer: Answer) -> list[str]:
    """Why this collection was asked, where there was a choice."""
    if (route := answer.route) is None:
        return []
    return [
        f"collection {route.collection}: relevance {route.relevance:.2f}, next {route.runner_up} "
        f"{route.runner_up_relevance:.2f}; --collection chooses another"
    ]


def _places(extent: Extent) -> str:
    return extent.places if len(extent.places) <= WIDTH else f"{extent.places[:WIDTH]}... (--json has all)"


def synced(result: Synced, dry_run: bool = False) -> str:
    """The last lines of `add`: what was done in all, or what would be."""
    parts = {
        "added": len(result.added),
        "replaced": len(result.replaced),
        "unchanged": len(result.unchanged),
        "forgotten": len(result.forgotten),
        "failed": len(result.failed),
    }
    told = ", ".join(f"{number:,} {name}" for name, number in parts.items() if number) or "nothing to add"
    lines = [f"would be: {told}" if dry_run else f"{told} in {result.seconds:.1f} s"]
    if dry_run:
        lists = {"add": result.added, "replace": result.replaced, "forget": result.forgotten}
        lines = [f"{what}: {in_one_line(source)}" for what, sources in lists.items() for source in sources] + lines
    if result.skipped:
        kinds = ", ".join(f"{number:,} {suffix}" for suffix, number in sorted(result.skipped.items()))
        lines.append(f"not read: {kinds}")
    return "\n".join(lines)


def cancelled(jobs: int) -> str:
    """What `cancel` did."""
    return f"asked to end: {count(jobs, 'running add')}" if jobs else "nothing to end: no add is running"


def statuses(rows: Sequence[Status]) -> str:
    """The table of `list`."""
    if not rows:
        return "The library is empty. Add a document: preread add FILE"
    return "\n".join(_status(row) for row in rows)


def _status(row: Status) -> str:
    tokens = f"{row.done:,}/{row.tokens:,}" if row.state in ("queued", "reading") else f"{row.tokens:,}"
    passages = count(row.entry.passages, "passage") if row.entry else ""
    passages += f", {row.as_text:,} as text" if row.as_text else ""
    reason = f"  ({row.reason})" if row.reason else ""
    return f"{row.collection:<16} {row.state:<8} {tokens:>12} tokens  {passages:<16} {in_one_line(row.source)}{reason}"


def passages(rows: Sequence[dict[str, Any]]) -> str:
    """The table of `show`."""
    return "\n".join(
        f"{row['index']:>5}  {row['start']:>9,}-{row['end']:<9,} {'as text' if row['as_text'] else '':<7} "
        f"{row['place']:<30.30} {_begin(row['text'])}"
        for row in rows
    )


def receipt(result: Receipt) -> str:
    """What `forget` removed."""
    what = {"document": result.documents, "passage": result.passages, "payload": result.payloads}
    gone = ", ".join(count(number, name) for name, number in what.items())
    checked = f"searched {count(result.searched, 'file')} that are left: nothing of it in any"
    return f"forgotten: {gone}, {result.bytes_freed:,} bytes freed; {checked}"


def figures(rows: Sequence[dict[str, Any]]) -> str:
    """Measured figures, one a line."""
    return "\n".join(f"{r['id']:<32} {r['value']:>8.4g} {r['unit']}  ({r['low']:.4g} to {r['high']:.4g})" for r in rows)


def gate_rates(rows: Sequence[dict[str, Any]]) -> str:
    """How often gates accept and refuse, in %, with intervals: one collection a line."""
    lines = [f"{'studied with':<32} {'own accepted':>24} {'n':>6} {'others refused':>24} {'n':>6}"]
    for row in rows:
        own, others = (
            f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"
            for value, low, high in (row["accepted"], row["refused"])
        )
        name = f"{row['collection']}, {row['studied_with']}"
        lines.append(f"{name:<32} {own:>24} {row['own']:>6} {others:>24} {row['others']:>6}")
    return "\n".join(lines)


def window_grid(found: Mapping[str, Any]) -> str:
    """The arms of an extension, each window's in order of how near they come to the reference."""
    width = max(len(row["arm"]) for row in found["rows"])
    lines = [f"{'window':>6} {'arm':{width}} {'perplexity':>10}  above the reference, %"]
    for row in sorted(found["rows"], key=lambda row: (row["length"], row["perplexity"])):
        gap = row["gap_percent"]
        lines.append(
            f"{row['length']:>6} {row['arm']:{width}} {row['perplexity']:>10.2f}  "
            f"{gap['value']:+.2f} ({gap['low']:+.2f} to {gap['high']:+.2f})"
        )
    return "\n".join(lines)


def evaluation(found: Mapping[str, Any]) -> str:
    """The tables of `eval`."""
    return "\n\n".join("\n".join(_evaluated(task)) for task in found["tasks"])


def _evaluated(task: Mapping[str, Any]) -> list[str]:
    width = max(len(row["answerer"]) for row in task["rows"])
    counted = f"{task['label']}: {task['items']} items of {task['units']} documents"
    head = f"{'':{width}} {task['headline']:>22} {'nll':>7} {'share of gap, %':>22} {'positions':>10}"
    lines = [counted, head]
    for row in task["rows"]:
        values = row["metrics"]
        nll = f"{values['nll']['value']:.3f}" if "nll" in values else ""
        shown = f"{_between(values.get(task['headline'])):>22} {nll:>7} {_between(values.get('share')):>22}"
        left_out = f"  ({row['unfit']['units']} left out: {row['unfit']['reason']})" if row["unfit"] else ""
        lines.append(f"{row['answerer']:{width}} {shown} {row['positions']:>10,.0f}{left_out}")
    return lines


def _between(value: Mapping[str, float | None] | None) -> str:
    """A mean with its interval; `?` where the documents do not bound it."""
    if value is None:
        return ""
    own, low, high = ("?" if value[end] is None else f"{value[end]:.2f}" for end in ("value", "low", "high"))
    return f"{own} ({low} to {high})"


def demo(result: Demo) -> str:
    """The demo's answers, side by side."""
    lines = (
        ["", f"{result.added.entry.title}: {result.added.entry.tokens:,} tokens", studied(result.studied)]
        if (result.studied)
        else ["", f"{result.added.entry.title}: {result.added.entry.tokens:,} tokens (studied in an earlier run)"]
    )
    for item in result.asked:
        lines += ["", "=" * WIDTH, item.question, f"(the answer stands at token {item.token:,}, {item.place})"]
        for method, answer in item.answers.items():
            lines += ["", *_shown(item, method, answer)]
    lines += ["", "=" * WIDTH, *_verdict(result)]
    return "\n".join(lines)


def configuration(chosen: Mapping[str, Chosen], origin: bool) -> str:
    """The table of `config show`."""
    rows = [(key, "-" if c.value is None else str(c.value), c.origin if origin else "") for key, c in chosen.items()]
    width = max(len(value) for _, value, _ in rows)
    return "\n".join(f"{key:<12} {value:<{width}}  {where}".rstrip() for key, value, where in rows)


def finding(seen: Finding) -> str:
    """A line of `doctor`, and its remedy on another."""
    line = f"{seen.state:<4}  {seen.name:<16} {seen.found}"
    return f"{line}\n{'':<22} -> {seen.remedy}" if seen.remedy else line


def inventory(rows: Sequence[dict[str, Any]]) -> str:
    """The table of `models list`."""
    lines = (
        f"{row['kind']:<10} {row['bytes'] / 1e6:>9,.1f} MB  {row['name']:<28} {row['path'] or '-'}"
        + (f"  ({row['note']})" if row["note"] else "")
        for row in rows
    )
    return "\n".join(lines)


def fetched(found: Fetched) -> str:
    """What `models pull` fetched, and where to."""
    notes = ", ".join(note for note in (found.revision and f"commit {found.revision}", found.note) if note)
    return f"{found.name} is at {found.folder}" + (f" ({notes})" if notes else "")


def comparison(result: Comparison, out: Path) -> str:
    """The answers of `compare`, and where its page is."""
    lines = []
    for column in result.columns:
        if column.answer:
            lines += [f"{column.method}: {column.answer.text}", f"  {usage(column.answer)}"]
        else:
            lines.append(f"{column.method}: no answer. {column.error}")
    return "\n".join([*lines, f"The page is at {out}"])


def _shown(item: Asked, method: str, answer: Answer) -> list[str]:
    mark = "holds the expected words" if item.right[method] else "does not hold the expected words"
    cited = "a citation covers the place" if item.cited[method] else "no citation covers the place"
    return [f"{method}: {answer.text}", f"  -> {mark}; {cited}", sources(answer)]


def _begin(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= BEGINNING else words[:BEGINNING] + "..."


def _verdict(result: Demo) -> list[str]:
    lines = []
    for method in result.asked[0].answers:
        right = sum(item.right[method] for item in result.asked)
        seconds = sum(item.answers[method].usage.first_token_s for item in result.asked) / len(result.asked)
        lines.append(f"{method}: {right} of {len(result.asked)} right, first token after {seconds:.2f} s on average")
    lines.append("Three questions show and do not measure; they were picked among those that plain text answers.")
    lines.append(f"Weights: {result.decoder}, {result.note}. A decoder of this size answers poorly even from the text.")
    return lines
