"""Cross-attention inside a decoder's layers, between self-attention and feed-forward, by hooks.

A layer computes x = h + attention(h), then x + feed-forward(x). What is added to the attention's output is added to x,
so that the layer itself, its modules and their names stay as they are, and nothing remains when the hooks are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from preread.core.errors import UnsupportedModel, UsageError
from preread.methods.cepe.crossing import CrossAttention, CrossShape
from preread.nn.hf import Decoder

Begin = Literal["gated", "zero", "copied"]
_numbers = count()
"""Several may sit on one decoder, so each has a name of its own."""
PARTS = ("input_layernorm", "self_attn", "mlp")
EPS = 1e-6
"""Of a norm that does not say its own."""
LOUD = 1e3
"""What a norm is given to tell its weights by: so much more than its epsilon that this does not show."""


class Crossings(nn.Module):
    """The cross-attention of a decoder's layers; attached, it acts where `decoder.beside` has a context for it.

    They begin as the layer's own self-attention, keys and values cut to the width of the states.

    - `copied`, the paper's: o too, and the norm of the feed-forward;
    - `zero`: an o of zero, so that the decoder is at first what it was, to the bit;
    - `gated`: each head's output times a number that begins as zero, so that this holds too; and self-attention's own
      norm, for queries as for states. Then a layer begins as if the states stood among its own keys, without positions,
      and training has first of all to find by how much each head gains from them (docs/cepe-training.md).

    Args:
        decoder: whose layers are given it; nothing of it is changed.
        states: S, width of the encoder's states.
        layers: which of its layers, counted from 0; None is all of them.
        begin: as what.

    Attributes:
        name: by which contexts are put in force for it.

    Raises:
        UsageError: the decoder has no such layer.
        UnsupportedModel: its layers are not built of self-attention, norm and feed-forward.
    """

    def __init__(
        self, decoder: Decoder, states: int, layers: Sequence[int] | None = None, begin: Begin = "gated"
    ) -> None:
        super().__init__()
        self._layers = list(decoder.model.base_model.layers)
        chosen = range(len(self._layers)) if layers is None else sorted(set(layers))
        if not chosen or not all(0 <= number < len(self._layers) for number in chosen):
            raise UsageError(
                expected=f"layers from 0 to {len(self._layers) - 1}, one at least",
                got=str(list(chosen)),
                consequence="Nothing was attached.",
                remedy="Correct `layers`.",
            )
        self.modules_by_layer = nn.ModuleDict(
            {str(number): _begun(decoder, self._layers[number], states, begin) for number in chosen}
        )
        self.name, self._beside = f"cepe/{next(_numbers)}", decoder.beside
        self._streams: dict[str, Tensor] = {}
        self._hooks: list[RemovableHandle] = []

    def attach(self) -> None:
        """Put them into the layers."""
        assert not self._hooks, "attached once"
        with self._beside.turn:
            self._beside.readers.add(self.name)
            for name in self.modules_by_layer:
                layer: Any = self._layers[int(name)]
                self._hooks += [
                    # What a layer is given it hands to this norm first; a layer's own hook is not called where it is
                    # computed again in the backward pass.
                    layer.input_layernorm.register_forward_pre_hook(self._remember(name)),
                    _behind_attention(layer).register_forward_hook(self._add(name)),
                ]

    def detach(self) -> None:
        """The decoder is what it was; a second call does nothing."""
        with self._beside.turn:  # a pass through the layers goes on with all of them or with none
            for hook in self._hooks:
                hook.remove()
            self._hooks = []
            self._beside.readers.discard(self.name)

    def _remember(self, name: str) -> Any:
        def remember(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            if self.name in self._beside.contexts:
                self._streams[name] = given[0]

        return remember

    def _add(self, name: str) -> Any:
        module = self.modules_by_layer[name]

        def add(_: nn.Module, __: Any, out: Any) -> Any:
            context = self._beside.contexts.get(self.name)
            if context is None:
                return out
            attended = out[0] if isinstance(out, tuple) else out
            attended = attended + module(self._streams.pop(name) + attended, context)
            return (attended, *out[1:]) if isinstance(out, tuple) else attended

        return add


def _begun(decoder: Decoder, layer: Any, states: int, begin: Begin) -> CrossAttention:
    """A layer's module as it begins."""
    _, kv_heads, head_width = decoder.kv_shape
    norm, own = _before_feed_forward(layer), layer.self_attn
    if begin == "gated":
        norm = layer.input_layernorm
    heads = own.q_proj.out_features // head_width
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", EPS))
    made = CrossAttention(CrossShape(decoder.width, heads, kv_heads, head_width, states, float(eps)), begin == "gated")
    with torch.no_grad():
        loud = torch.full((decoder.width,), LOUD, dtype=torch.float32, device=decoder.device)
        made.norm.copy_(norm(loud))  # of an even input its weights are left, whether they are kept as w or as w - 1
        made.q.copy_(own.q_proj.weight)
        for ours, theirs in ((made.k, own.k_proj.weight), (made.v, own.v_proj.weight)):
            shared = min(states, decoder.width)
            ours[:, :shared] = theirs[:, :shared].to(ours)
            if begin == "gated":
                ours[:, :shared] *= made.norm[:shared]
        if begin != "zero":
            made.o.copy_(own.o_proj.weight)
    return made.to(decoder.device)


def _behind_attention(layer: Any) -> nn.Module:
    """The module whose output a layer adds to its stream before the feed-forward: a norm in Gemma's families."""
    normed = hasattr(layer, "pre_feedforward_layernorm")
    behind: nn.Module = layer.post_attention_layernorm if normed else layer.self_attn
    return behind


def _before_feed_forward(layer: Any) -> nn.Module:
    norm: Any = getattr(layer, "pre_feedforward_layernorm", getattr(layer, "post_attention_layernorm", None))
    if not isinstance(norm, nn.Module) or not all(isinstance(getattr(layer, part, None), nn.Module) for part in PARTS):
        raise UnsupportedModel(
            expected=f"layers of {', '.join(PARTS)} with a norm before the feed-forward",
            got=type(layer).__name__,
            consequence="Nothing was attached.",
            remedy="Choose a decoder of the Llama, Qwen, Gemma or Mistral families.",
        )
    return norm
