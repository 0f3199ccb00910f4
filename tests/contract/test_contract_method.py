"""The laws of the door, for every method and three families of decoder. A method joins by one line of `METHODS`."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from preread.core.errors import FingerprintMismatch, IntegrityError, UnsupportedModel, UsageError
from preread.core.memory import Memory
from preread.core.method import Handle, Method
from preread.core.types import MEMORY, Passage, Prompt
from preread.methods import METHODS
from preread.methods.cepe.encoder import EncoderConfig
from preread.methods.cepe.method import Cepe
from preread.methods.cepe.reader import ReaderConfig
from preread.methods.kv.method import Kv
from preread.methods.lloco.method import Lloco
from preread.methods.lloco.shape import CompressorConfig
from preread.methods.longlora.method import LongLora
from preread.methods.text import Text
from preread.nn.hf import Decoder
from preread.nn.lora import Lora, LoraConfig
from preread.nn.reading import read

SMALL = CompressorConfig(max_summary=16, lora=LoraConfig(rank=4))
READER = ReaderConfig(EncoderConfig(layers=1, lora=LoraConfig(rank=4, dropout=0.0)), begin="copied", order=2)
CASES: dict[str, Callable[[], Method]] = {
    "text": Text,
    "lloco": lambda: Lloco(ratio=4, shape=SMALL),
    "longlora": LongLora,
    "cepe": lambda: Cepe(fresh=True, shape=READER),
    "cepe-int8": lambda: Cepe(kept="int8", fresh=True, shape=READER),
    "kv": lambda: Kv(ratio=4),
    "kv-matched": lambda: Kv(ratio=4, match=True),
    "lloco-recursive": lambda: Lloco(ratio=4, segments="recursive", segment_tokens=20, shape=SMALL),
}
PLAIN = {"text", "longlora"}
"""Methods whose memories are the text itself."""
REFUSED = {("kv-matched", "tiny-gemma")}
"""Where a method says at once that it cannot be attached: keys with a weight need attention without a soft cap."""
FAMILIES = ("llama", "qwen2", "gemma", "default")
TEXTS = (
    "The keeper of the lighthouse wrote down every ship that passed.",
    "In winter the storm reached the island at night.",
    "Nobody slept; the lamp burned until the morning, and when it was over the keeper wrote that down too.",
)


def test_every_method_is_judged_here():
    assert {make().name for make in CASES.values()} == set(METHODS)


@pytest.fixture(params=FAMILIES)
def decoder(request, tiny_decoder) -> Decoder:
    """Tiny random decoders in float32, and the packaged default in bfloat16 (slow)."""
    if request.param != "default":
        return tiny_decoder(request.param)
    torch.set_num_threads(os.cpu_count() or 1)
    return request.getfixturevalue("default_decoder")


@pytest.fixture(params=CASES)
def method(request, decoder) -> Method:
    torch.manual_seed(7)
    if (request.param, decoder.name) in REFUSED:
        with pytest.raises(UnsupportedModel):
            CASES[request.param]().attach(decoder)
        pytest.skip(f"{request.param} refuses {decoder.name}")
    return CASES[request.param]()


@pytest.fixture
def handle(method, decoder):
    with method.attach(decoder) as handle:
        _disturb(decoder)
        yield handle


def _disturb(decoder: Decoder) -> None:
    """A fresh LoRA is zero and would hide every mistake: make the attached ones count."""
    for name in decoder.adapters:
        for b in decoder.adapters[name].b.values():
            torch.nn.init.normal_(b, std=0.2)


def _passages(decoder: Decoder) -> list[Passage]:
    made, start, first = [], 0, 0
    for index, text in enumerate(TEXTS):
        ids = tuple(decoder.tokens(text).tolist())
        made.append(Passage("doc", index, ids, start, start + len(text), text, "", first))
        start, first = start + len(text), first + len(ids)
    return made


@torch.inference_mode()
def _logits(decoder: Decoder, prompt: Prompt) -> Tensor:
    return decoder.logits(read(decoder, prompt))


def _encode(handle: Handle, passages: list[Passage]) -> dict[str, list[Memory]]:
    return {scope: list(handle.encode(passages, scope)) for scope in {"passage", *handle.scopes}}


def test_attach_and_detach_leave_the_logits_identical(method, decoder):
    ids = decoder.tokens(TEXTS[0])
    names = [name for name, _ in decoder.model.named_modules()]
    before, state = _logits(decoder, Prompt(ids)), {k: v.clone() for k, v in decoder.model.state_dict().items()}
    handle = method.attach(decoder)
    _disturb(decoder)
    list(handle.encode(_passages(decoder)))
    assert torch.equal(_logits(decoder, Prompt(ids)), before), "attached, but nothing is asked of it"
    handle.detach()
    handle.detach()
    assert torch.equal(_logits(decoder, Prompt(ids)), before)
    assert [name for name, _ in decoder.model.named_modules()] == names
    assert all(torch.equal(value, state[key]) for key, value in decoder.model.state_dict().items())
    assert not any(module._forward_hooks for module in decoder.model.modules())


def test_no_memory_is_the_base_model(handle, decoder):
    prompt = handle.prompt("Who kept the lighthouse?", [])
    chat = decoder.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Who kept the lighthouse?"}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"][0]
    assert prompt.ids.tolist() == chat.tolist()
    assert torch.equal(_logits(decoder, prompt), decoder.model(chat[None]).logits[0])


def test_running_text_behind_no_memory_is_the_bare_text(handle, decoder):
    ids = decoder.tokens(TEXTS[2])
    plain = torch.cat([decoder.start_ids, ids])
    prompt = handle.continuation(ids, [])
    assert torch.equal(prompt.ids, plain)
    assert torch.equal(_logits(decoder, prompt), decoder.model(plain[None]).logits[0])


def test_running_text_behind_a_memory_is_read_in_the_light_of_it(handle, decoder):
    ids, passages = decoder.tokens(TEXTS[2]), _passages(decoder)[:2]
    whole = torch.cat([decoder.start_ids, *(torch.tensor(passage.ids) for passage in passages), ids])
    for memories in _encode(handle, passages).values():
        prompt = handle.continuation(ids, memories)
        assert prompt.fields <= handle.needs
        assert torch.equal(prompt.ids[-len(ids) :], ids)
        with_memory = _logits(decoder, prompt)[-len(ids) :]
        assert (with_memory - _logits(decoder, handle.continuation(ids, []))[-len(ids) :]).abs().max() > 1e-3
        if handle.name in PLAIN:
            assert torch.equal(with_memory, _logits(decoder, Prompt(whole))[-len(ids) :])


def test_a_memory_changes_the_answer(handle, decoder):
    """The counter-law: without it, a method that ignores its memories would pass every other law."""
    for memories in _encode(handle, _passages(decoder)).values():
        with_memory = handle.prompt("Who?", memories)
        without = handle.prompt("Who?", [])
        a = _logits(decoder, with_memory)[-1]
        assert (a - _logits(decoder, without)[-1]).abs().max() > 1e-3


def test_text_among_memories_is_read_as_the_text_method_reads_it(handle, decoder):
    with Text().attach(decoder) as text:
        texts = list(text.encode(_passages(decoder)))
        ours, theirs = handle.prompt("Who?", texts), text.prompt("Who?", texts)
        assert torch.equal(ours.ids, theirs.ids)
        assert ours.shared == theirs.shared
        assert torch.equal(_logits(decoder, ours), _logits(decoder, theirs))
        ids = decoder.tokens(TEXTS[2])
        behind, plainly = handle.continuation(ids, texts), text.continuation(ids, texts)
        assert torch.equal(_logits(decoder, behind), _logits(decoder, plainly))


def test_text_takes_the_place_of_one_memory_and_leaves_the_others(handle, decoder):
    passages = _passages(decoder)
    own = list(handle.encode(passages))
    with Text().attach(decoder) as text:
        first, middle, last = text.encode(passages)
    mixed = handle.prompt("Who?", [own[0], middle, own[2]])
    assert mixed.fields <= handle.needs
    if handle.name not in PLAIN:
        assert int((mixed.ids == MEMORY).sum()) == own[0].positions + own[2].positions
    bare = len(handle.prompt("Who?", [middle])) - len(passages[1].ids)
    assert len(mixed) == bare + own[0].positions + len(passages[1].ids) + own[2].positions
    words = torch.tensor(passages[1].ids)
    assert any(torch.equal(window, words) for window in mixed.ids.unfold(0, len(words), 1))
    logits = _logits(decoder, mixed)[-1]
    others = [[own[0], first, own[2]], [own[0], middle]]
    if handle.name not in PLAIN:  # to which they are the same
        others += [[first, middle, own[2]], [own[0], middle, last]]
    for other in others:
        assert (logits - _logits(decoder, handle.prompt("Who?", other))[-1]).abs().max() > 1e-3


def test_what_moves_is_of_the_prompt_and_deciding_it_leaves_nothing_behind(handle, decoder):
    passages = _passages(decoder)
    memories = list(handle.encode(passages))
    with Text().attach(decoder) as text:
        memories[1] = list(text.encode(passages))[1]
    prompt = handle.prompt("Who?", memories)
    before = _logits(decoder, prompt)
    moving = handle.moving(prompt, memories)
    assert bool(moving) == ("states" in handle.needs)
    assert moving.keys() <= {0, 2}, "what is text already does not"
    assert list(moving.values()) == sorted(moving.values(), reverse=True)
    assert sum(moving.values()) <= 1 + 1e-6
    assert handle.moving(prompt, memories) == moving
    assert torch.equal(_logits(decoder, prompt), before)


def test_embeddings_and_text_stand_in_the_order_given(tiny_decoder):
    decoder = tiny_decoder("llama")
    passages = _passages(decoder)
    with Lloco(ratio=4, shape=SMALL).attach(decoder) as handle, Text().attach(decoder) as text:
        own, (_, middle, _) = list(handle.encode(passages)), text.encode(passages)
        prompt = handle.prompt("Who?", [own[0], middle, own[2]])
    holes = (prompt.ids == MEMORY).nonzero().flatten().tolist()
    before, behind = holes[: own[0].positions], holes[own[0].positions :]
    assert prompt.ids[before[-1] + 1 : behind[0]].tolist() == list(passages[1].ids)
    assert torch.equal(prompt.embeds, torch.cat([own[0].tensors["embeds"], own[2].tensors["embeds"]]))


def test_batch_equals_single(handle, decoder):
    passages = _passages(decoder)
    together = list(handle.encode(passages))
    alone = [memory for passage in passages for memory in handle.encode([passage])]
    for a, b in zip(together, alone, strict=True):
        assert (a.source, a.tokens, a.producer) == (b.source, b.tokens, b.producer)
        for name, tensor in a.tensors.items():
            off = (tensor.float() - b.tensors[name].float()).norm()
            assert off <= (1e-5 if decoder.dtype == torch.float32 else 5e-2) * tensor.float().norm()


def test_encoding_reads_its_input_as_it_goes(handle, decoder):
    """A document may be longer than the machine's memory: the first memory comes before the last passage is read."""
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield _passages(decoder)[0]

    next(iter(handle.encode(endless())))
    assert read < 10_000


def test_memories_save_and_load_bit_exactly(handle, decoder):
    for memories in _encode(handle, _passages(decoder)).values():
        for memory in memories:
            again = Memory.from_bytes(memory.to_bytes(), expect=memory.producer)
            assert (again.producer, again.scope, again.source) == (memory.producer, memory.scope, memory.source)
            assert again.tokens == memory.tokens > 0
            for name, tensor in memory.tensors.items():
                assert tensor.dtype == again.tensors[name].dtype
                assert torch.equal(tensor, again.tensors[name])


def test_a_memory_of_other_weights_is_refused(method, decoder, tiny_decoder):
    with method.attach(decoder) as handle:
        scope = ("passage", *handle.scopes)[-1]
        memory = next(handle.encode(_passages(decoder), scope))
        family = decoder.name.removeprefix("tiny-") if decoder.name.startswith("tiny-") else "llama"
        with method.attach(tiny_decoder(family, seed=1)) as other, pytest.raises(FingerprintMismatch) as caught:
            Memory.from_bytes(memory.to_bytes(), expect=other.producer(scope))
    assert decoder.fingerprint[:12] in str(caught.value)


def test_what_changes_a_memory_changes_its_producer(tiny_decoder):
    """Equal work by equal weights has one name, and any other work another: memories must never be mixed up."""
    deep = {"segments": "recursive", "segment_tokens": 20, "shape": SMALL}
    other_shape = CompressorConfig(max_summary=16, lora=LoraConfig(rank=4, alpha=1.0))

    def key(settings, scope="document", seed=0):
        decoder = tiny_decoder("llama", seed=seed)
        with Lloco(**settings).attach(decoder) as handle:
            return handle.producer(scope).key

    base = {"ratio": 4, **deep}
    keys = [
        key(base),
        key(base, scope="passage"),
        key({**base, "ratio": 8}),
        key({**base, "segment_tokens": 30}),
        key({**base, "shape": other_shape}),
        key(base, seed=1),
    ]
    assert len(set(keys)) == len(keys)
    assert key(base) == keys[0]
    assert key({**base, "batch_tokens": 7}) == keys[0], "how many are made at a time changes nothing"
    with Text().attach(tiny_decoder("llama")) as text:
        assert text.producer("passage").key not in keys


def test_trained_weights_are_part_of_the_producer(tiny_decoder):
    decoder = tiny_decoder("llama")
    with Lloco(ratio=4, shape=SMALL).attach(decoder) as handle, tempfile.TemporaryDirectory() as folder:
        before = handle.producer("passage")
        handle.compressor.summary_tokens.data[0, 0] += 1
        handle.compressor.save(Path(folder), manifest={})
        with Lloco(ratio=4, compressor=Path(folder)).attach(decoder) as trained:
            assert trained.producer("passage").weights != before.weights


def test_two_compressors_on_one_decoder_do_not_meet(tiny_decoder):
    decoder = tiny_decoder("llama")
    passages = _passages(decoder)
    with Lloco(ratio=4, shape=SMALL).attach(decoder) as first:
        _disturb(decoder)
        alone = [memory.tensors["embeds"] for memory in first.encode(passages)]
        with Lloco(ratio=4, shape=SMALL).attach(decoder):
            beside = [memory.tensors["embeds"] for memory in first.encode(passages)]
        after = [memory.tensors["embeds"] for memory in first.encode(passages)]
    for a, b, c in zip(alone, beside, after, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_every_field_of_a_producer_is_in_its_key(handle):
    for scope in {"passage", *handle.scopes}:
        producer = handle.producer(scope)
        changed = [
            dataclasses.replace(producer, **{field.name: 9 if field.type == "int" else "other"})
            for field in dataclasses.fields(producer)
        ]
        assert len({p.key for p in [producer, *changed]}) == len(changed) + 1


def test_damaged_memories_are_refused(handle, decoder):
    raw = next(handle.encode(_passages(decoder))).to_bytes()
    for bad in (
        b"",
        raw[:5],
        raw[:40],
        raw[: len(raw) - 1],
        b"\xff" * 8 + raw[8:],
        raw.replace(b"preread", b"PREREAD"),
    ):
        with pytest.raises(IntegrityError):
            Memory.from_bytes(bad)


def test_an_adapter_of_zeros_is_the_base_model_and_a_trained_one_is_not(handle, decoder):
    decoder.adapters.add("collection", Lora(LoraConfig(rank=2), decoder.projections).eval())
    memories = list(handle.encode(_passages(decoder)))
    prompt = handle.prompt("Who?", memories, adapter="collection")
    bare = _logits(decoder, prompt)
    with decoder.adapters.use(prompt.adapter):
        assert torch.equal(_logits(decoder, prompt), bare)
    for b in decoder.adapters["collection"].b.values():
        torch.nn.init.normal_(b, std=0.2)
    with decoder.adapters.use(prompt.adapter):
        assert not torch.equal(_logits(decoder, prompt), bare)
    assert torch.equal(_logits(decoder, prompt), bare)
    decoder.adapters.remove("collection")


def test_an_unknown_stage_is_refused(handle):
    with pytest.raises(UsageError, match="stage"):
        handle.objective("no such stage")


def test_prompts_use_only_what_the_method_says_it_needs(handle, decoder):
    for memories in _encode(handle, _passages(decoder)).values():
        assert handle.prompt("Who?", memories).fields <= handle.needs


def test_a_compressor_saves_and_loads_bit_exactly_and_refuses_other_weights(tiny_decoder):
    decoder = tiny_decoder("llama")
    passages = _passages(decoder)
    with Lloco(ratio=4, shape=SMALL).attach(decoder) as handle:
        _disturb(decoder)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            handle.compressor.save(path, manifest={})
            with Lloco(ratio=4, compressor=path).attach(decoder) as again:
                for a, b in zip(handle.encode(passages), again.encode(passages), strict=True):
                    assert torch.equal(a.tensors["embeds"], b.tensors["embeds"])
            with pytest.raises(FingerprintMismatch):
                Lloco(compressor=path).attach(tiny_decoder("llama", seed=1))
            weights = path / "compressor.safetensors"
            whole = weights.read_bytes()
            flipped = bytes([*whole[:-7], whole[-7] ^ 1, *whole[-6:]])
            for damaged in (whole[:-3], flipped):
                weights.write_bytes(damaged)
                with pytest.raises(IntegrityError):
                    Lloco(compressor=path).attach(decoder)
