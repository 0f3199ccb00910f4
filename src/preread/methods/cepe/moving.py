"""Which memories a decoder attends to while it reads a question: those worth having before it as text.

What an encoder's states tell is the gist; words and numbers come through poorly (docs/cepe.md). Where the
cross-attention looks is known, so what it looks at most is given word for word: REFRAG (arXiv 2509.01092) chooses the
chunks to expand by a trained policy, ours by the attention that is there.
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
        A share for each memory, the mean over layers, heads and positions, a gated head counting by its gate; together
        1, or all 0 where every gate is closed.
    """
    assert prompt.states is not None
    assert sum(sizes) == len(prompt.states), "every state is of some memory"
    mass = torch.zeros(len(prompt.states), device=decoder.device)

    def listen(module: nn.Module, given: tuple[Tensor, Context]) -> None:
        assert isinstance(module, CrossAttention)
        x, context = given
        for some in torch.split(x[0, prompt.shared :], AT_ONCE):
            seen = module.weights(some, context.states[0]).sum(1)
            mass.add_(seen.sum(0) if module.gate is None else module.gate.float().abs() @ seen)

    with decoder.adapters.use(prompt.adapter):  # whose turn it is: nobody else reads while hooks listen
        hooks = [module.register_forward_pre_hook(listen) for module in crossings.modules_by_layer.values()]
        try:
            read(decoder, prompt)
        finally:
            for hook in hooks:
                hook.remove()
    whole = mass.sum().clamp_min(torch.finfo(mass.dtype).tiny)
    return [float(own.sum()) for own in torch.split(mass / whole, list(sizes))]
