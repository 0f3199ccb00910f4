"""The `adapter` stage: teach a LoRA to answer from what a method put into the prompt.

It works on prompts alone, so a summary memory, kept keys and values, plain text and no context at all are trained by
the same code and under the same care. LLoCO (arXiv 2404.07979, section 3.2) trains on answers only; the top-k
distillation from the same decoder reading the text is ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preread.core.errors import UsageError
from preread.core.method import Objective
from preread.core.types import Lesson, Prompt
from preread.nn.hf import Decoder
from preread.nn.lora import Lora
from preread.nn.losses import answer_losses, teach
from preread.nn.reading import followed, read_all, read_behind


class AnswerObjective(Objective):
    """Cross-entropy of the answers, distillation from the teacher's prompt, or both; only the adapter trains.

    Args:
        decoder: the frozen decoder, with the adapter attached.
        adapter: its name.
        ce: weight of the cross-entropy.
        distil: weight of the distillation; lessons without a teacher have none.
        top_k: how much of the teacher's distribution is used.
        together: whether a beginning that prompts of a batch share is read once for them all, with one draw of the
            adapter's dropout: the same numbers but for rounding, and quicker the longer it is.
    """

    def __init__(
        self,
        decoder: Decoder,
        adapter: str,
        ce: float = 1.0,
        distil: float = 1.0,
        top_k: int = 16,
        together: bool = False,
    ) -> None:
        super().__init__()
        self.decoder, self.adapter = decoder, adapter
        self._read = read_behind if together else read_all
        self.ce, self.distil, self.top_k = ce, distil, top_k
        self.lora = decoder.adapters[adapter].requires_grad_(True)

    def forward(self, batch: Sequence[Lesson]) -> dict[str, Tensor]:
        """Loss terms `answer` and, with a teacher, `distil`, over the tokens of all answers."""
        taught = None
        if self.distil and all(lesson.teacher is not None for lesson in batch):
            teachers = [lesson.teacher for lesson in batch if lesson.teacher is not None]
            with torch.no_grad(), self.decoder.adapters.use(None):
                states = self._answer_states(teachers, batch)
            taught = teach(self.decoder.logits, states, self.top_k)
        with self.decoder.adapters.use(self.adapter):
            states = self._answer_states([lesson.prompt for lesson in batch], batch)
        targets = torch.cat([lesson.answer for lesson in batch]).to(states.device)
        answer, distil = answer_losses(self.decoder.logits, states, targets, taught)
        return _weighted({"answer": (self.ce, answer), "distil": (self.distil if taught else 0.0, distil)})

    def settle(self) -> None:
        """Freeze the adapter and switch its dropout off."""
        self.lora.requires_grad_(False).eval()

    def save(self, folder: Path, training: Mapping[str, Any]) -> None:
        """Write the adapter in PEFT's layout, and `manifest.json` beside it."""
        self.lora.save(folder)
        record = {"kind": "adapter", "base": self.decoder.fingerprint, "training": dict(training)}
        (folder / "manifest.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """As `Objective.load`."""
        before = Lora.load(folder, self.decoder.projections)
        if before.config != self.lora.config:
            raise UsageError(
                expected=f"an adapter of the shape {self.lora.config}",
                got=f"{before.config} in {folder}",
                consequence="Nothing was trained.",
                remedy="Keep the adapter's shape as it was, or start afresh.",
            )
        self.lora.load_state_dict(before.state_dict())

    def _answer_states(self, prompts: Sequence[Prompt], lessons: Sequence[Lesson]) -> Tensor:
        """[T, D]: for every answer token of every row, the state that predicts it."""
        whole = [followed(prompt, lesson.answer) for prompt, lesson in zip(prompts, lessons, strict=True)]
        states = zip(self._read(self.decoder, whole), lessons, strict=True)
        return torch.cat([row[-len(lesson.answer) - 1 : -1] for row, lesson in states])


def adapter_objective(decoder: Decoder, stage: str, settings: Mapping[str, Any]) -> AnswerObjective:
    """The objective of a method that has no stage but `adapter`.

    Raises:
        UsageError: another stage is asked for.
    """
    if stage != "adapter":
        raise UsageError(
            expected="stage adapter",
            got=stage,
            consequence="Nothing was trained.",
            remedy="Use stage adapter.",
        )
    return AnswerObjective(decoder, **settings)


def _weighted(terms: dict[str, tuple[float, Tensor]]) -> dict[str, Tensor]:
    return {name: weight * value for name, (weight, value) in terms.items() if weight}
