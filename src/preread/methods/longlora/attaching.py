"""Shifted sparse attention for any decoder of transformers: one line before a training, one behind it.

    attach(model, length=32768)
    ...                           # any training script: model.train() attends sparsely, model.eval() in full
    detach(model)

Transformers asks a registered function for the mask, once a forward for all layers of a kind, and another one to
attend. The first decides how this forward attends and hands its decision on as the mask, so that a layer that is
computed again in the backward pass does as it did before, whatever mode the model is in by then.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from preread.core.errors import UnsupportedModel, UsageError
from preread.methods.longlora.attention import KERNELS, Backend, shifted_attention
from preread.methods.longlora.scoring import Scoring
from preread.methods.longlora.segments import Grouping, Segments, documents
from preread.nn.kinds import layer_kinds
from preread.nn.sharing import Sharing, Span

KINDS = frozenset({"full_attention", "sliding_attention", "linear_attention"})
"""Layers that are shifted, keep a window of their own, or do not attend at all."""
FOREIGN = ("s_aux", "position_bias")
"""What some layers hand to attention and no stretch can take: sinks, and biases by position."""
BY_LENGTH = frozenset({"dynamic", "longrope"})
"""Kinds of RoPE whose frequencies are chosen by the last position that a forward is given."""

_numbers = itertools.count()
_attached: weakref.WeakKeyDictionary[nn.Module, Attached] = weakref.WeakKeyDictionary()


def attach(
    model: PreTrainedModel,
    length: int | None = None,
    *,
    group: int | None = None,
    shifted: bool = True,
    inference: bool = False,
    backend: Backend = "auto",
    full_below: int | None = None,
) -> None:
    """Have a decoder attend sparsely in training; everything else is as before, bit for bit.

    Args:
        model: of transformers, bare or wrapped by peft.
        length: tokens of the rows that will be trained; decides the group, so that it does not change with a batch.
        group: tokens of a group; None takes a quarter of `length`, and the window where that is longer.
        shifted: whether half of the heads have groups moved by half of one.
        inference: attend sparsely outside training too, as long as no cache holds anything (the paper: optional).
        backend: what computes it; `auto` takes the quickest that the device and the layer allow.
        full_below: longest document that is attended to in full; None is the window that the model comes with.

    Raises:
        UnsupportedModel: its layers cannot be shifted.
        UsageError: it is attached already, or a length, group or backend that makes no sense.
    """
    model = _bare(model)
    if model in _attached:
        raise _refused("a model that attends by itself", "one that is attached already", "Detach it first.")
    if backend not in ("auto", *KERNELS):
        raise _refused(f"backend auto, {', '.join(KERNELS)}", str(backend), "Take `auto`.")
    _expect_decoder(model)
    if length is not None and full_below is None:
        _expect_longer(length, int(model.config.get_text_config().max_position_embeddings))
    if length is not None and group is not None and group >= length:
        raise _refused("a group below the length, which it divides", f"{group} of {length} tokens", "Leave group= out.")
    own = int(model.config.get_text_config().max_position_embeddings)
    window = own if full_below is None else full_below
    grouping = Grouping(_group(length, window) if group is None else group, shifted, window)
    made = Attached(model, grouping, inference, backend)
    AttentionInterface.register(made.name, made.attend)
    AttentionMaskInterface.register(made.name, made.mask)
    model.set_attn_implementation(made.name)
    _attached[model] = made


def detach(model: PreTrainedModel) -> None:
    """Have the model attend as it did before; a model that is not attached stays as it is."""
    model = _bare(model)
    made = _attached.pop(model, None)
    if made is not None:
        model.set_attn_implementation(made.before)
        for interface in (AttentionInterface, AttentionMaskInterface):
            interface._global_mapping.pop(made.name, None)


def share(model: PreTrainedModel, sharing: Sharing) -> Rows:
    """From here on the model, which is attached, is given parts of rows that several processes hold together.

    Attention is full outside of training, over all of a row, too.

    Returns:
        What has to be told of the rows before each forward.

    Raises:
        UnsupportedModel: a layer of it attends to a window only, or its RoPE depends on the length of what it is given.
        UsageError: it has fewer heads than there are processes.
    """
    config = model.config.get_text_config()
    kinds = layer_kinds(model.config)
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if kinds != {"full_attention"} or rope in BY_LENGTH:
        raise _unsupported(
            "layers that all attend in full, and a RoPE that is the same at any length, to share rows over processes",
            f"layers of {', '.join(sorted(kinds))}, rope: {rope}",
        )
    if sharing.size > config.num_attention_heads:
        raise UsageError(
            expected=f"at most {config.num_attention_heads} processes for a row, one a head",
            got=str(sharing.size),
            consequence="Nothing was trained.",
            remedy="Lower training.sequence_parallel; further processes read rows of their own.",
        )
    made = _attached[_bare(model)]
    made.rows = Rows(sharing)
    return made.rows


@dataclass(slots=True)
class Rows:
    """Rows that several processes hold together.

    Args:
        sharing: the processes.
        documents: lengths of the documents of all rows; set before each forward.
    """

    sharing: Sharing
    documents: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """How one forward attends, in the place of its mask.

    Args:
        segments: stretches of whole rows.
        backend: what computes it.
        sharing: the processes that hold the rows; None is this one alone.
    """

    segments: Segments
    backend: Backend
    sharing: Sharing | None = None


class Attached:
    """What transformers calls for one model."""

    def __init__(self, model: PreTrainedModel, grouping: Grouping, inference: bool, backend: Backend) -> None:
        self.name = f"shifted-{next(_numbers)}"
        self.before: str = model.config.get_text_config()._attn_implementation
        self.grouping, self.inference, self.backend = grouping, inference, backend
        self.rows: Rows | None = None
        self._model = weakref.ref(model)

    def mask(self, *, batch_size: int, q_length: int, kv_length: int, q_offset: Any = 0, **rest: Any) -> Any:
        """How this forward attends: a `Decision`, or the mask that the model's own attention wants."""
        fresh = int(q_offset) == 0 and q_length == kv_length
        if self.rows is not None:
            grouping = self.grouping if self._active() else replace(self.grouping, full_below=sum(self.rows.documents))
            return Decision(grouping.segments(self.rows.documents), self.backend, self.rows.sharing)
        if not (self._active() and fresh) or rest.get("local_size") is not None:
            own = AttentionMaskInterface()[self.before]
            return own(batch_size=batch_size, q_length=q_length, kv_length=kv_length, q_offset=q_offset, **rest)
        segments = self.grouping.segments(documents(_begins(batch_size, q_length, **rest)))
        return Decision(segments, self.backend)

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **rest: Any
    ) -> tuple[Tensor, Tensor | None]:
        """As the mask decided, for one layer; [B, T, H, E]."""
        if isinstance(mask, Decision):
            if foreign := [name for name in FOREIGN if rest.get(name) is not None]:
                raise _unsupported("attention without sinks and without biases by position", ", ".join(foreign))
            scoring = Scoring(rest.get("scaling"), rest.get("dropout", 0.0), rest.get("softcap"))
            return _attend(query, key, value, mask, scoring), None
        if mask is not None and self._active() and not rest.get("sliding_window") and query.shape[2] == key.shape[2]:
            raise _unsupported("documents told apart by positions or a mask of [B, T]", "a mask of [B, 1, T, T]")
        own = AttentionInterface()._global_mapping.get(self.before)
        if own is None:  # `eager` is no entry of the table: each file of transformers has its own
            own = vars(sys.modules[type(module).__module__])["eager_attention_forward"]
        out: tuple[Tensor, Tensor | None] = own(module, query, key, value, mask, **rest)
        return out

    def _active(self) -> bool:
        model = self._model()
        return model is not None and (model.training or self.inference)


def _attend(query: Tensor, key: Tensor, value: Tensor, decision: Decision, scoring: Scoring) -> Tensor:
    """[B, T, H, E] attention of whole rows, or of this process's part of them."""
    if decision.sharing is None:
        return shifted_attention(query, key, value, decision.segments, scoring, backend=decision.backend)
    half = query.shape[1] // 2

    def some(query: Tensor, key: Tensor, value: Tensor, heads: Span) -> Tensor:
        plain = min(max(half - heads[0], 0), heads[1] - heads[0])
        return shifted_attention(query, key, value, decision.segments, scoring, plain, decision.backend)

    length = sum(decision.segments.plain) // query.shape[0]
    return decision.sharing.attend(query, key, value, length, some)


def _begins(
    batch_size: int,
    length: int,
    *,
    mask_function: Any,
    attention_mask: Tensor | None = None,
    device: Any = "cpu",
    use_vmap: bool = False,
    **_: Any,
) -> Tensor:
    """[B, T] bool: where a document, or padding, begins, read off what transformers would make a mask of.

    Two neighbours are of one document if the later one sees the earlier one. No mask of [T, T] is made.
    """
    if torch.device(device).type == "meta":  # shapes alone (models/hollow.py): every row stands for one document
        return torch.zeros(batch_size, length, dtype=torch.bool)
    rows, places = torch.arange(batch_size, device=device)[:, None], torch.arange(length, device=device)[None]
    before, behind = (places - 1).clamp_min(0), (places + 1).clamp_max(length - 1)
    head = torch.zeros((), dtype=torch.int64, device=device)
    ahead = mask_function(rows, head, places, behind).expand(batch_size, length)[:, :-1]
    if use_vmap or ahead.any():
        raise _unsupported("plain causal attention", "a mask of the model's own, or one that looks ahead")
    begins: Tensor = ~mask_function(rows, head, places, before).expand(batch_size, length)
    if attention_mask is not None:
        real = attention_mask[:, :length].bool()
        begins = begins | real.diff(dim=1, prepend=real[:, :1])
    return begins


def _group(length: int | None, window: int) -> int:
    """A quarter of the length, or the window where that is longer; even."""
    if length is None:
        raise _refused("the length that will be trained, or a group", "neither", "Pass length=, in tokens.")
    _expect_longer(length, window)
    return max(length // 4, window) // 2 * 2


def _expect_longer(length: int, window: int) -> None:
    if length <= window:
        raise _refused(
            f"a length beyond the window of {window} tokens, up to which attention is full",
            str(length),
            "Train without this, or pass group= and full_below=.",
        )


def _bare(model: nn.Module) -> PreTrainedModel:
    """The model itself, where peft has wrapped it."""
    bare: PreTrainedModel = getattr(model, "get_base_model", lambda: model)()
    return bare


def _expect_decoder(model: PreTrainedModel) -> None:
    config, kinds = model.config.get_text_config(), layer_kinds(model.config)
    causal = {module.is_causal for module in model.modules() if hasattr(module, "is_causal")}
    if getattr(config, "is_encoder_decoder", False) or False in causal:
        raise _unsupported("a decoder that attends causally", type(model).__name__)
    if "full_attention" not in kinds or kinds - KINDS:
        raise _unsupported("layers that attend to everything before them", f"layers of {', '.join(sorted(kinds))}")
    if not getattr(model, "_supports_attention_backend", False):
        raise _unsupported("a model that attends through transformers' attention interface", type(model).__name__)


def _refused(expected: str, got: str, remedy: str) -> UsageError:
    return UsageError(expected, got, "Nothing was attached.", remedy)


def _unsupported(expected: str, got: str) -> UnsupportedModel:
    return UnsupportedModel(
        expected=expected,
        got=got,
        consequence="Shifted sparse attention cannot be right here, so nothing was computed.",
        remedy="Train this model with full attention, or choose one of the Llama, Qwen, Gemma or Mistral families.",
    )
