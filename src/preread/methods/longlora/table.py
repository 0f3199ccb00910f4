"""LoRA on the embedding table, and on an output head that is tied to it: peft's `lora_embedding_A` and `_B`.

The table W [V, D] becomes W + (alpha / R) (B A)^T with A [R, V] and B [D, R], in both places where it is tied. Nothing
of the size of the table is made: tokens gather their columns of A, and the head multiplies by the two in turn.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from preread.methods.longlora.parts import head_path, table_path, tied
from preread.nn.lora import PEFT_PREFIX, LoraConfig, compact, fill


class TableLora(nn.Module):
    """A low-rank update of a model's embedding table; A starts at zero, so it starts as nothing.

    Args:
        config: of which rank and alpha count; the table has no dropout.
        model: whose table it is for.
    """

    def __init__(self, config: LoraConfig, model: PreTrainedModel) -> None:
        super().__init__()
        table = model.get_input_embeddings()
        self.path, self.head = table_path(model), head_path(model) if tied(model) else None
        self.scale = config.alpha / config.rank
        shape, device = (table.num_embeddings, table.embedding_dim), table.weight.device
        self.a = nn.Parameter(torch.zeros(config.rank, shape[0], device=device))
        self.b = nn.Parameter(torch.randn(shape[1], config.rank, device=device))

    def hook(self, model: PreTrainedModel) -> list[RemovableHandle]:
        """Have the model compute with it until the hooks are removed."""
        hooks = [model.get_input_embeddings().register_forward_hook(self._embed)]
        return [*hooks, model.get_output_embeddings().register_forward_hook(self._predict)] if self.head else hooks

    def update(self) -> Tensor:
        """[V, D] float32: what it adds to the table."""
        return (self.b.detach() @ self.a.detach()).T * self.scale

    def tensors(self) -> dict[str, Tensor]:
        """Both matrices by their names in peft's file, on the CPU; a tied head has them again, as in peft's."""
        own = {f"{PEFT_PREFIX}{self.path}.lora_embedding_{letter}": compact(m) for letter, m in self._matrices}
        return own | {name: compact(matrix.T).clone() for name, matrix in self._of_head}

    def take(self, tensors: dict[str, Tensor]) -> None:
        """Copy both out of a peft file's tensors, and remove from it whatever it says of the table.

        Raises:
            KeyError: one is missing.
            ValueError: one has another shape, or the head's copy of it other numbers.
        """
        for letter, matrix in self._matrices:
            fill(matrix, f"{PEFT_PREFIX}{self.path}.lora_embedding_{letter}", tensors)
        for name, matrix in self._of_head:
            if not torch.equal(tensors.pop(name).to(matrix), matrix.T):
                raise ValueError(f"{name} that is not the LoRA of {self.path}, to which it is tied")

    @property
    def _matrices(self) -> tuple[tuple[str, nn.Parameter], ...]:
        return ("A", self.a), ("B", self.b)

    @property
    def _of_head(self) -> tuple[tuple[str, nn.Parameter], ...]:
        """By their names: the same matrices, which a tied head has turned and in the other order."""
        stem = f"{PEFT_PREFIX}{self.head}.lora_"
        return ((f"{stem}A.weight", self.b), (f"{stem}B.weight", self.a)) if self.head else ()

    def _embed(self, table: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        low = F.embedding(inputs[0], self.a.T.to(output.dtype))
        delta = F.linear(low, self.b.to(output.dtype)) * self.scale
        # Gemma's tables multiply what they give, and peft the update with it.
        times: Tensor | float = getattr(table, "embed_scale", 1.0)
        return output + delta * (times.to(delta) if isinstance(times, Tensor) else times)

    def _predict(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        low = F.linear(inputs[0], self.b.T.to(output.dtype))
        return output + F.linear(low, self.a.T.to(output.dtype)) * self.scale
