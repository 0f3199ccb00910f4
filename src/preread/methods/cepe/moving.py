"""Which memories a decoder attends to while it reads a question: those worth having before it as text.

What an encoder's states tell is the gist; words and numbers come through poorly (docs/cepe.md). Where the
cross-attention looks is known, so what it looks at most is given word for word: REFRAG (arXiv 2509.01092) chooses the
chunks to expand by a trained policy, ours by the attention that is there.

A memory counts by the one head and position that attends to it most. A few heads look for what is asked; in the mean
over all of them these drown, and passages with the answer are found no more often than by chance (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from preread.core.types import Prompt
from preread.methods.cepe.attaching import Crossings
from preread.methods.cepe.crossing import CrossAttention
from preread.nn.beside import Context
from preread.nn.hf import Decoder
from preread.nn.reading import read

AT_ONCE = 16
"""Positions whose weights over all states are held at the same time."""


@torch.inference_mode()
def shares(decoder: Decoder, crossings: Crossings, prompt: Prompt, sizes: Sequence[int]) -> list[float]:
    """How the cross-attention of what a prompt asks is divided among its memories.

    Args:
        decoder: who reads; the crossings are attached to it.
        crossings: the prompt's reader.
        prompt: with states; what counts are its positions behind those that other questions share.
        sizes: states of each memory, in order; together the prompt's.

    Returns:
        A share for each memory: the most attention that a head gives it from one position, a gated head counting by its
        gate, scaled so that they are together 1; all 0 where every gate is closed.
    """
    assert prompt.states is not None
    assert sum(sizes) == len(prompt.states), "every state is of some memory"
    most = torch.zeros(len(sizes), device=decoder.device)

    def listen(module: nn.Module, given: tuple[Tensor, Context]) -> None:
        assert isinstance(module, CrossAttention)
        x, context = given
        for weights in module.weights(x[0, prompt.shared :], context.states[0], AT_ONCE):
            seen = torch.split(weights, list(sizes), dim=-1)
            heads = torch.stack([own.sum(-1).amax(-1) for own in seen])
            if module.gate is not None:
                heads *= module.gate.float().abs()
            torch.maximum(most, heads.amax(-1), out=most)

    with decoder.adapters.use(prompt.adapter):  # whose turn it is: nobody else reads while hooks listen
        hooks = [module.register_forward_pre_hook(listen) for module in crossings.modules_by_layer.values()]
        try:
            read(decoder, prompt)
        finally:
            for hook in hooks:
                hook.remove()
    return [float(share) for share in most / most.sum().clamp_min(torch.finfo(most.dtype).tiny)]
