"""Lessons of every kind of prompt, in one batch: the same losses as each prompt read alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from preread.core.types import MEMORY, Lesson, Passage, Prompt
from preread.methods.kv.method import Kv
from preread.methods.text import Text
from preread.nn.answering import AnswerObjective
from preread.nn.lora import Lora, LoraConfig
from preread.nn.reading import followed, read

TEXT = "In winter the storm reached the island at night; the lamp burned and nobody slept."


@pytest.fixture(params=["llama", "qwen2"])
def decoder(request, tiny_decoder):
    decoder = tiny_decoder(request.param)
    decoder.adapters.add("taught", Lora(LoraConfig(rank=4, dropout=0.0), decoder.projections))
    for b in decoder.adapters["taught"].b.values():
        torch.nn.init.normal_(b, std=0.1)
    return decoder


def prompts(decoder, ratio=4.0):
    """A text, its kept keys and values, and embeddings, of different lengths."""
    passage = Passage("doc", 0, tuple(decoder.tokens(TEXT).tolist()), 0, len(TEXT), TEXT, "", 0)
    with Text().attach(decoder) as text, Kv(ratio=ratio).attach(decoder) as kv:
        plain, kept = (handle.prompt("Who slept?", list(handle.encode([passage]))) for handle in (text, kv))
    assert kept.kv is not None
    vectors = Prompt(torch.tensor([MEMORY, MEMORY, 7, 8, 9]), torch.randn(2, decoder.width) / 5)
    return plain, kept, vectors


def test_a_batch_of_all_kinds_is_each_prompt_alone(decoder):
    """Against `read` of single prompts and PyTorch's own losses, over the whole vocabulary."""
    plain, kept, vectors = prompts(decoder)
    answers = [torch.tensor([11, 12, 13]), torch.tensor([21]), torch.tensor([31, 32])]
    lessons = [
        Lesson(kept, answers[0], teacher=plain),
        Lesson(vectors, answers[1], teacher=kept),
        Lesson(plain, answers[2], teacher=vectors),
    ]
    vocabulary = decoder.model.config.vocab_size
    terms = AnswerObjective(decoder, "taught", top_k=vocabulary)(lessons)

    @torch.no_grad()
    def log_probabilities(prompt, answer, adapter):
        with decoder.adapters.use(adapter):
            return decoder.logits(read(decoder, followed(prompt, answer))[-len(answer) - 1 : -1]).log_softmax(-1)

    student = torch.cat([log_probabilities(lesson.prompt, lesson.answer, "taught") for lesson in lessons])
    teacher = torch.cat([log_probabilities(lesson.teacher, lesson.answer, None) for lesson in lessons])
    torch.testing.assert_close(terms["answer"].detach(), F.nll_loss(student, torch.cat(answers)), atol=1e-4, rtol=0)
    distance = F.kl_div(student, teacher, log_target=True, reduction="batchmean")
    torch.testing.assert_close(terms["distil"].detach(), distance, atol=1e-4, rtol=0)


def test_all_of_a_text_kept_teaches_what_the_text_does(decoder):
    """Kept keys and values are those of the bare decoder, so the bare decoder must tell no difference."""
    plain, kept, _ = prompts(decoder, ratio=1)
    for b in decoder.adapters["taught"].b.values():
        torch.nn.init.zeros_(b)
    objective = AnswerObjective(decoder, "taught", ce=0.0)
    lesson = Lesson(kept, torch.tensor([11, 12, 13]), teacher=plain)
    assert float(objective([lesson])["distil"].detach()) < 1e-4
    assert float(objective([Lesson(Prompt(plain.ids[-5:]), lesson.answer, plain)])["distil"].detach()) > 1e-2


def test_an_adapter_learns_to_answer_from_kept_keys_and_values(decoder):
    _, kept, _ = prompts(decoder)
    objective = AnswerObjective(decoder, "taught")
    lesson = Lesson(kept, torch.tensor([11, 12, 13]))
    optimizer = torch.optim.AdamW(objective.trainable().values(), lr=0.02)
    losses = []
    for _ in range(8):
        losses.append(objective([lesson])["answer"])
        optimizer.zero_grad()
        losses[-1].backward()
        assert all(parameter.grad is not None for parameter in objective.trainable().values())
        optimizer.step()
    assert float(losses[-1].detach()) < 0.7 * float(losses[0].detach())
