"""Memories in an evaluation: text as memory is the full text, the control reads another document, leaks are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from preread.core.config import load
from preread.core.errors import PrereadWarning, UsageError
from preread.core.types import Document, Mark, Passage, text_hash
from preread.data.passages import split
from preread.eval.answerers import ANSWERERS
from preread.eval.answerers.memory import Remembered
from preread.eval.answerers.other import Other
from preread.eval.answerers.plain import Full, Nothing, text_lead, text_prompts
from preread.eval.answerers.retrieved import Retrieved
from preread.eval.cache import Cache
from preread.eval.case import Case, Item, Stretch, Unfit, with_others
from preread.eval.leaks import refuse_leaks
from preread.eval.measuring import losses, respond
from preread.eval.recipe import EvalRecipe, built
from preread.eval.runner import run
from preread.eval.tasks.qa import Qa
from preread.methods import METHODS
from preread.methods.kv.method import Kv
from preread.methods.lloco.compressor import Compressor
from preread.methods.lloco.shape import CompressorConfig
from preread.nn.lora import LoraConfig
from tests.conftest import WordCounts

SHAPE = {"max_summary": 64, "lora": {"rank": 2}}
READER = {"fresh": True, "shape": {"begin": "copied", "encoder": {"layers": 1}}}
SENTENCES = ("The keeper of the lighthouse slept.", "In winter the storm reached the island.", "The lamp burned.")
TALE = Document("a", "a", "\n\n".join(f"{number}: {SENTENCES[number % 3]} " * 12 for number in range(9)))
ELSE = Document("b", "b", "Another tale, of a brig and its cook. " * 40)
ITEMS = (
    Item("1", "Who slept?", ("The keeper", "he"), choices=("the keeper", "the storm"), gold=0),
    Item("2", "What burned in 5?", ("the lamp",)),
)
CASE = Case("a", TALE, ITEMS, other=ELSE)
MEMORIES = [
    Remembered("text"),
    Remembered("kv", {"ratio": 4}),
    Remembered("lloco", {"ratio": 4, "shape": SHAPE}),
    Remembered("lloco", {"ratio": 4, "shape": SHAPE, "segments": "recursive", "segment_tokens": 200}),
    Remembered("cepe", {"moved": 0, **READER}),
]
IDS = ("text", "kv", "lloco", "recursive", "cepe")


@pytest.fixture
def kit(kit_of, tiny_decoder):
    kit = kit_of(tiny_decoder("llama"))
    kit.__dict__["embedder"] = WordCounts()
    assert len(kit.passages(TALE)) > 4
    return kit


def told(answers):
    each = [(*r.references, *r.choices) for r in answers.responses]
    return [likelihood.nats for row in each for likelihood in row]


def stretch_of(kit, far=500, near=30, target=20, **rest):
    ids = tuple(kit.decoder.tokens(TALE.text).tolist())
    return Stretch("s", "a", "h", ids[:far], ids[far : far + near], ids[far + near : far + near + target], **rest)


def test_the_text_as_a_memory_is_the_full_text(kit):
    memory, full = Remembered("text").respond(kit, CASE, 8), Full().respond(kit, CASE, 8)
    assert memory.responses == full.responses
    stretch = stretch_of(kit)
    assert torch.equal(Remembered("text").losses(kit, stretch).nats, Full().losses(kit, stretch).nats)


def test_one_passage_kept_whole_is_the_full_text(kit):
    short = replace(CASE, document=Document("c", "c", " ".join(SENTENCES)))
    memory, full = (one.respond(kit, short, 8) for one in (Remembered("kv", {"ratio": 1}), Full()))
    assert told(memory) == pytest.approx(told(full), abs=1e-2)


def test_the_best_passages_as_text_are_what_the_retriever_lays(kit):
    memory = Remembered("text", reads="passages", passages=2).respond(kit, CASE, 8)
    assert memory.responses == Retrieved(passages=2).respond(kit, CASE, 8).responses
    every = Remembered("kv", reads="passages", passages=99).respond(kit, CASE, 8)
    whole = Remembered("kv").respond(kit, CASE, 8)
    assert told(every) == pytest.approx(told(whole), abs=1e-3)


@pytest.mark.parametrize("answerer", MEMORIES, ids=IDS)
def test_a_memory_is_read_and_put_away(kit, answerer):
    before = list(kit.decoder.adapters)
    with answerer.laid(kit, CASE, ITEMS, "some") as layout:
        assert all(prompt.adapter == "some" for prompt in layout.prompts)
    with answerer.laid(kit, CASE, ITEMS) as layout:
        asked = respond(layout.decoder, layout.prompts, ITEMS, 8)
    assert list(kit.decoder.adapters) == before
    answers = answerer.respond(kit, CASE, 8)
    assert list(answers.responses) == asked, "deterministic"
    assert told(answers) != told(Nothing().respond(kit, CASE, 8))
    with answerer._method.attach(kit.decoder) as handle:
        scope = "document" if "document" in handle.scopes else "passage"
        memories = list(handle.encode(kit.passages(TALE), scope))
        prompt = handle.prompt(ITEMS[0].question, memories)
        assert answers.responses[:1] == tuple(respond(kit.decoder, [prompt], ITEMS[:1], 8))
    assert answers.stored_bytes == sum(len(memory.to_bytes()) for memory in memories)
    assert answers.responses[0].positions == len(prompt)


@pytest.mark.parametrize("answerer", MEMORIES, ids=IDS)
def test_running_text_is_read_behind_a_memory_of_what_is_far(kit, answerer):
    stretch = stretch_of(kit)
    found = answerer.losses(kit, stretch)
    assert found.nats.shape == (20,)
    assert not torch.equal(found.nats, Nothing().losses(kit, stretch).nats)
    assert found.stored_bytes > 0
    with pytest.raises(Unfit, match="near text"):
        answerer.losses(kit, replace(stretch, near=()))


def test_running_text_chooses_passages_by_their_scores(kit):
    pieces = ((0, 50), (50, 120), (120, 200))
    stretch = stretch_of(kit, passages=pieces, scores=(0.3, 0.1, 0.2))
    found = Remembered("text", reads="passages", passages=2).losses(kit, stretch)
    read = text_lead(kit.decoder, (*stretch.far[:50], *stretch.far[120:200], *stretch.near))
    assert torch.equal(found.nats, losses(kit.decoder, read, stretch.target))
    with pytest.raises(Unfit, match="scores"):
        Remembered("text", reads="passages").losses(kit, stretch_of(kit))


def test_memories_that_all_move_are_the_full_text(kit):
    moved, full = (one.respond(kit, CASE, 8) for one in (Remembered("cepe", {"moved": 99, **READER}), Full()))
    assert moved.responses == full.responses
    stretch = stretch_of(kit)
    assert torch.equal(
        Remembered("cepe", {"moved": 99, **READER}).losses(kit, stretch).nats, Full().losses(kit, stretch).nats
    )


def test_what_moves_is_text_for_its_question_and_the_rest_stays_beside(kit):
    every = sum(len(passage.ids) for passage in kit.passages(TALE))
    with Remembered("cepe", {"moved": 1, **READER}).laid(kit, CASE, ITEMS) as layout:
        bare = [len(text_prompts(kit.decoder, [0], [item])[0]) - 1 for item in ITEMS]
        for prompt, frame in zip(layout.prompts, bare, strict=True):
            text = prompt.ids[: prompt.shared].tolist()
            own = [p for p in kit.passages(TALE) if " ".join(map(str, p.ids)) in " ".join(map(str, text))]
            assert len(prompt) == frame + len(own[0].ids)
            assert len(prompt.states) == every - len(own[0].ids)


SECTIONS = [f"Tale {number}\nThe keeper {number} slept in winter." for number in range(6)]


def sections(near):
    starts = [sum(len(one) + 2 for one in SECTIONS[:number]) for number in range(len(SECTIONS))]
    marks = tuple(Mark(start, "section", str(number)) for number, start in enumerate(starts))
    return Case("c", Document("c", "c", "\n\n".join(SECTIONS), marks), ITEMS, near)


def test_what_is_near_is_text_and_the_rest_stands_beside_it(kit):
    cepe, tokens = Remembered("cepe", {"moved": 0, **READER}), kit.decoder.tokens
    with cepe.laid(kit, sections(2), ITEMS) as layout:
        near = tokens("\n\n".join(SECTIONS[:2]) + "\n\n").tolist()
        far = [tokens(one + "\n\n" * (one is not SECTIONS[-1])) for one in SECTIONS[2:]]
        for prompt, plain in zip(layout.prompts, text_prompts(kit.decoder, near, ITEMS), strict=True):
            assert torch.equal(prompt.ids, plain.ids)
            assert len(prompt.states) == sum(map(len, far))
        assert layout.prompts[0].states is layout.prompts[1].states, "held once"
    assert cepe.respond(kit, sections(6), 8).responses == Full().respond(kit, sections(6), 8).responses
    assert told(cepe.respond(kit, sections(2), 8)) != told(cepe.respond(kit, sections(3), 8))
    kv = Remembered("kv", {"ratio": 4})
    assert told(kv.respond(kit, sections(2), 8)) == told(kv.respond(kit, sections(3), 8)), "it has no other way to read"


def test_far_text_is_encoded_in_chunks_of_the_protocol(kit):
    stretch = stretch_of(kit, far=600)
    with Remembered("cepe", {"moved": 0, **READER}).continued(kit, stretch) as layout:
        [prompt] = layout.prompts
    with built(METHODS, {"kind": "cepe", **READER}, "method").attach(kit.decoder) as handle:
        [*chunks] = handle.encode(
            [Passage("s", i, stretch.far[at : at + 256], 0, 0, "", "", at) for i, at in enumerate((0, 256, 512))]
        )
    assert torch.equal(prompt.states, torch.cat([chunk.tensors["states"] for chunk in chunks]))
    assert prompt.ids.tolist() == [*kit.decoder.start_ids.tolist(), *stretch.near]


def test_labels_say_method_ratio_and_what_differs():
    specs = [
        ({"method": "text"}, "text"),
        ({"method": "kv"}, "kv 4x"),
        ({"method": "kv", "settings": {"ratio": 16, "match": True}}, "kv 16x match"),
        ({"method": "kv", "settings": {"ratio": 16}, "reads": "passages"}, "kv 16x, 5 passages"),
        ({"method": "lloco", "settings": {"segments": "recursive"}}, "lloco 30x recursive"),
        ({"method": "lloco", "settings": {"ratio": 8, "compressor": "runs/first"}}, "lloco 8x first"),
        ({"method": "cepe", "settings": {"moved": 0}}, "cepe moved 0"),
        ({"method": "lloco", "settings": {"fresh": True, "segment_tokens": 99}}, "lloco 30x fresh segment_tokens 99"),
    ]
    for spec, label in specs:
        memory = {"kind": "memory", **spec}
        assert built(ANSWERERS, memory, "answerer").label == label
        assert built(ANSWERERS, {"kind": "other", "of": memory}, "answerer").label == f"{label}, another document's"


def test_the_recipe_that_ships_has_a_control_of_every_memory():
    recipe = load(EvalRecipe, Path(__file__).parents[2] / "recipes" / "eval-memory.yaml")
    assert [task.label for task in recipe.chosen_tasks()] == ["fairytaleqa"]
    answerers = recipe.chosen_answerers()
    memories = [one.label for one in answerers if isinstance(one, Remembered)]
    assert memories
    assert memories == [one.inner.label for one in answerers if isinstance(one, Other)]


@pytest.mark.parametrize(
    "spec", [{"method": "no"}, {"method": "kv", "settings": {"rato": 4}}, {"method": "kv", "passages": 0}]
)
def test_what_cannot_be_is_refused_when_the_recipe_is_read(spec):
    for wrong in ({"kind": "memory", **spec}, {"kind": "other", "of": {"kind": "memory", **spec}}):
        with pytest.raises(UsageError):
            built(ANSWERERS, wrong, "answerer")


def test_weights_are_a_part_of_the_key_and_leaks_are_refused(kit, data, tmp_path):
    shape = CompressorConfig(max_summary=64, lora=LoraConfig(rank=2))
    task = Qa("tales")
    units = task.units(kit)
    for number, seen in enumerate(([], [text_hash(units[1].document.text)])):
        compressor = Compressor(kit.decoder, shape)
        compressor.summary_tokens.data[0, 0] = number
        compressor.save(tmp_path / str(number), {"documents": seen})
    clean, taught = (Remembered("lloco", {"ratio": 4, "compressor": str(tmp_path / name)}) for name in ("0", "1"))
    same = Remembered("lloco", {"ratio": 4, "compressor": str(tmp_path / "0")})
    assert len({clean.key(kit), taught.key(kit), Other({"kind": "memory", "method": "kv"}).key(kit)}) == 3
    assert same.key(kit) == clean.key(kit)
    refuse_leaks(kit, task, clean, units)
    for leaking in (taught, Other({"kind": "memory", "method": "lloco", "settings": dict(taught.settings)})):
        with pytest.raises(UsageError, match="1 of 4 that it was, such as"):
            refuse_leaks(kit, task, leaking, units)


@pytest.mark.parametrize(
    "of", [{"kind": "full"}, {"kind": "memory", "method": "kv"}, {"kind": "streaming", "recent": 60}]
)
def test_the_control_reads_the_other_document_alone(kit, of):
    control = Other(of)
    answers = control.respond(kit, CASE, 8)
    assert answers == control.inner.respond(kit, replace(CASE, document=ELSE), 8)
    assert told(answers) != told(control.inner.respond(kit, CASE, 8))
    with pytest.raises(Unfit, match="another document"):
        control.respond(kit, replace(CASE, other=None), 8)


def test_the_control_keeps_what_is_near(kit):
    stretch, else_ids = stretch_of(kit), tuple(kit.decoder.tokens(ELSE.text).tolist())
    other = Stretch("t", "b", "i", else_ids[:300], else_ids[300:320], else_ids[320:330])
    found = Other({"kind": "full"}).losses(kit, replace(stretch, other=other))
    read = text_lead(kit.decoder, (*other.far, *stretch.near))
    assert torch.equal(found.nats, losses(kit.decoder, read, stretch.target))
    for alone in (stretch, replace(stretch, other=replace(other, far=()))):
        with pytest.raises(Unfit, match="another document"):
            Other({"kind": "full"}).losses(kit, alone)


def test_the_control_of_a_tuned_answerer_learns_from_the_same_task():
    control = Other({"kind": "tuned", "of": {"kind": "memory", "method": "kv"}}).on(Qa("tales"))
    assert control.inner.set == "tales"
    assert control.inner.inner == Remembered("kv")
    assert control.on(Qa("tales")) is control


@given(st.lists(st.sampled_from("abc"), max_size=12))
def test_the_other_document_is_the_next_one_and_stays_whatever_follows(names):
    cases = [Case(str(i), Document(name, name, name), ()) for i, name in enumerate(names)]
    stretches = [Stretch(str(i), name, name, (1,), (2,), (3,)) for i, name in enumerate(names)]
    for units, document in ((cases, lambda c: c.document), (stretches, lambda s: s and s.document)):
        found = with_others(units)
        for i, (unit, own) in enumerate(zip(found, units, strict=True)):
            following = [document(one) for one in (*units[i + 1 :], *units[:i])]
            others = [one for one in following if one != document(own)]
            got = unit.other if isinstance(unit, Case) else document(unit.other)
            assert got == (others[0] if others else None)
            assert replace(unit, other=None) == own
            assert (unit.key == own.key) == (unit.other is None), "what the control reads is a part of the key"


def test_what_a_memory_is_warned_of_is_said_by_the_row_once(kit, tmp_path, monkeypatch):
    monkeypatch.setattr("preread.methods.kv.method.SIDE_BY_SIDE", 1)
    monkeypatch.setattr(type(kit), "passages", lambda self, document: split(document, self.decoder.tokenizer, 40))
    rows = [Remembered("kv"), Other({"kind": "memory", "method": "kv"}), Nothing()]
    cache = Cache(tmp_path / "judged")
    [judged] = run(kit, [Qa("tales", questions=1)], rows, cache)
    most = max(len(kit.passages(case.document)) for case in Qa("tales").units(kit))
    note = f"{most} passages side by side may drown each other out (tried: up to 1)"
    assert judged.caveats == {"kv 4x": (note,), "kv 4x, another document's": (note,), "no context": ()}
    assert run(kit, [Qa("tales", questions=1)], rows, cache) == [judged], "what is kept says it too"
    with pytest.warns(PrereadWarning, match="side by side"):
        Remembered("kv").respond(kit, Qa("tales").units(kit)[0], 0)


def test_the_share_of_kept_keys_is_the_methods_own(kit):
    """The answerer knows no method: what it lays is what the method's handle lays, one memory for all questions."""
    with Kv(ratio=4).attach(kit.decoder) as handle:
        memories = list(handle.encode(kit.passages(TALE)))
        own = handle.prompt(ITEMS[1].question, memories)
    with Remembered("kv", {"ratio": 4}).laid(kit, CASE, ITEMS) as layout:
        assert layout.prompts[0].kv is layout.prompts[1].kv
        assert torch.equal(layout.prompts[1].kv.keys, own.kv.keys)
        assert torch.equal(layout.prompts[1].ids, own.ids)
