"""The likelihood is the model's own; what is shared is read once and changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from preread.core.types import Document, Sampling
from preread.data.passages import split
from preread.engines.local import LocalEngine
from preread.eval.answerers.plain import Full
from preread.eval.answerers.streaming import Streaming
from preread.eval.case import Case, Item, Unfit
from preread.eval.measuring import PIECE, losses, respond
from preread.methods.kv.method import Kv
from preread.methods.lloco.method import Lloco
from preread.methods.lloco.shape import CompressorConfig
from preread.methods.text import Text
from preread.nn.lora import Lora, LoraConfig
from preread.nn.reading import followed, read

SMALL = CompressorConfig(max_summary=16, lora=LoraConfig(rank=2))
METHODS = [Text(), Kv(ratio=3), Kv(ratio=3, match=True), Lloco(ratio=4, shape=SMALL)]
TALE = Document("a", "a", "The keeper of the lighthouse slept. In winter the storm reached the island at night. " * 4)
ITEMS = (
    Item("1", "Who slept?", ("The keeper", "he"), choices=("the keeper", "the storm"), gold=0),
    Item("2", "Who?", ("nobody knows at all",)),
    Item("3", "Who slept where, and why?", ()),
)


def prompts_of(decoder, method, adapter=None):
    with method.attach(decoder) as handle:
        memories = list(handle.encode(split(TALE, decoder.tokenizer, 40)))
        return [handle.prompt(item.question, memories, adapter) for item in ITEMS]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma"])
def test_the_likelihood_is_the_models_own(tiny_decoder, family):
    decoder = tiny_decoder(family)
    prompts = prompts_of(decoder, Text())
    for prompt, item, found in zip(prompts, ITEMS, respond(decoder, prompts, ITEMS, 0), strict=True):
        for text, likelihood in zip(item.answers, found.references, strict=True):
            answer = decoder.tokens(text)
            labels = torch.cat([torch.full_like(prompt.ids, -100), answer])
            with torch.inference_mode():
                loss = decoder.model(input_ids=torch.cat([prompt.ids, answer])[None], labels=labels[None]).loss
            assert likelihood.tokens == len(answer), "the end token is not judged"
            assert likelihood.mean == pytest.approx(float(loss), abs=1e-4)


@pytest.mark.parametrize("most", [6, 0], ids=["written", "judged alone"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.name}{getattr(method, 'match', '')}")
def test_what_items_share_is_read_once_and_changes_nothing(tiny_decoder, method, most, monkeypatch):
    decoder = tiny_decoder("llama")
    prompts = prompts_of(decoder, method)
    alone = [respond(decoder, [prompt], [item], most)[0] for prompt, item in zip(prompts, ITEMS, strict=True)]
    read_positions = []
    hidden = type(decoder).hidden

    def counted(self, embeds, *args, **settings):
        read_positions.append(embeds.shape[1])
        return hidden(self, embeds, *args, **settings)

    monkeypatch.setattr(type(decoder), "hidden", counted)
    together = respond(decoder, prompts, ITEMS, most)
    for one, other in zip(alone, together, strict=True):
        assert (one.answer, one.positions, one.written) == (other.answer, other.positions, other.written)
        for mine, theirs in zip((*one.references, *one.choices), (*other.references, *other.choices), strict=True):
            assert mine.nats == pytest.approx(theirs.nats, abs=1e-4)
    if method.name == "text":
        shared = prompts[0].shared
        texts = sum(len(item.answers) + len(item.choices) + 1 for item in ITEMS)
        assert sum(read_positions) < shared + texts * 60, "the context was read once"


@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.name}{getattr(method, 'match', '')}")
def test_choices_do_not_hang_on_what_was_judged_before(tiny_decoder, method):
    decoder = tiny_decoder("llama")
    [prompt, *_] = prompts_of(decoder, method)
    texts = ("the keeper", "the storm", "in winter the island burned", "he")
    together = respond(decoder, [prompt], [Item("all", "?", (), texts)], 0)[0].choices
    alone = [respond(decoder, [prompt], [Item("one", "?", (), (text,))], 0)[0].choices[0] for text in texts]
    assert [one.nats for one in together] == [one.nats for one in alone], "to the bit"


def test_an_empty_reference_is_not_judged_by_likelihood(tiny_decoder, kit_of):
    kit = kit_of(tiny_decoder("llama"))
    case = Case("a", TALE, (Item("1", "Who slept?", ("", "The keeper")), Item("2", "Who?", ("",))))
    for answerer in (Full(), Streaming(4, 60)):
        some, none = answerer.respond(kit, case, 3).responses
        assert [one.tokens for one in some.references] == [len(kit.decoder.tokens("The keeper"))]
        assert none.references == ()


def test_the_answer_is_the_engines(tiny_decoder):
    decoder = tiny_decoder("llama")
    prompts = prompts_of(decoder, Text())
    events = LocalEngine(decoder).complete(prompts, Sampling(max_tokens=6))
    assert [found.answer for found in respond(decoder, prompts, ITEMS, 6)] == [event.text.strip() for event in events]


def test_an_adapter_acts_on_answers_and_likelihoods(tiny_decoder):
    decoder = tiny_decoder("llama")
    plain = respond(decoder, prompts_of(decoder, Text()), ITEMS, 6)
    lora = decoder.adapters.add("taught", Lora(LoraConfig(rank=2), decoder.projections).eval())
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    prompts = prompts_of(decoder, Text(), "taught")
    found = respond(decoder, prompts, ITEMS, 6)
    assert found[0].references[0].nats != pytest.approx(plain[0].references[0].nats)
    answer = decoder.tokens(ITEMS[0].answers[0])
    with torch.inference_mode(), decoder.adapters.use("taught"):
        states = read(decoder, followed(replace(prompts[0], adapter=None), answer))
        scores = decoder.logits(states[-len(answer) - 1 : -1]).log_softmax(-1)
    assert found[0].references[0].nats == pytest.approx(-float(scores.gather(1, answer[:, None]).sum()), abs=1e-4)


def test_losses_of_running_text_are_those_of_one_pass(tiny_decoder):
    decoder = tiny_decoder("llama")
    ids = decoder.tokens(TALE.text * 20)
    before, target = ids[:100], ids[100:1400]
    with Text().attach(decoder) as handle:
        prompt = handle.prompt("Go on", [])
    prompt = replace(prompt, ids=torch.cat([decoder.start_ids, before]), shared=0)
    found = losses(decoder, prompt, target.tolist())
    assert len(target) > 2 * PIECE, "more than one piece is read"
    with torch.inference_mode():
        logits = decoder.model(input_ids=torch.cat([prompt.ids, target])[None]).logits[0]
    scores = logits[len(prompt) - 1 : -1].log_softmax(-1)
    torch.testing.assert_close(found, -scores.gather(1, target[:, None])[:, 0], atol=1e-4, rtol=0)


def test_what_does_not_fit_is_unfit(tiny_decoder):
    decoder = tiny_decoder("llama")
    with Text().attach(decoder) as handle:
        long = split(Document("b", "b", TALE.text * 60), decoder.tokenizer, 4000)
        prompts = [handle.prompt(item.question, list(handle.encode(long))) for item in ITEMS]
    with pytest.raises(Unfit, match=f"{decoder.window} positions"):
        respond(decoder, prompts, ITEMS, 6)
