"""The only file that knows a decoder's anatomy and the versions of transformers.

Everything else sees a `Decoder`: token ids or embeddings in, hidden states or logits out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from preread.core.errors import UnsupportedModel
from preread.core.types import MEMORY, Turn
from preread.nn.adapters import Adapters
from preread.nn.beside import Beside
from preread.nn.cache import SlotCache
from preread.nn.growing import GrowingCache
from preread.nn.kinds import layer_kinds

ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
SLOT = "\x02user\x03"
"""Stands for context and question while a chat template is rendered; control characters that no text holds."""
INSTRUCTION = "\n\nAnswer the question from the text above.\n\n"
"""Stands between context and question, the same for every method."""
CACHED_LAYERS = frozenset({"full_attention", "sliding_attention"})
UNCACHED_SETTINGS = ("attention_chunk_size", "num_kv_shared_layers", "kv_sharing_modes")


@dataclass(frozen=True)
class Decoder:
    """A frozen causal language model with its tokenizer.

    Args:
        model: any Hugging Face decoder with q, k, v and o projections.
        tokenizer: its fast tokenizer.
        name: how the user named it.
        fingerprint: hash of weights, architecture and tokenizer; memories are bound to it.
        note: what every result must say of the weights, such as `de-quantised Q4_1`.
        revision: commit of the hub repository, or an empty string where it came from elsewhere.
        narrowed: positions that it is opened with, where it was trained for more (`nn/views.py`).
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    fingerprint: str
    note: str = ""
    revision: str = ""
    narrowed: int | None = None

    def __post_init__(self) -> None:
        self.model.requires_grad_(False).eval()
        if not self.tokenizer.is_fast:
            raise UnsupportedModel(
                expected="a fast tokenizer, which gives character offsets",
                got=type(self.tokenizer).__name__,
                consequence=f"{self.name} was not loaded: citations could not point at the source.",
                remedy="Choose a model whose repository has a tokenizer.json.",
            )
        if not self.projections:
            raise UnsupportedModel(
                expected=f"attention layers with {', '.join(ATTENTION_PROJECTIONS)}",
                got=type(self.model).__name__,
                consequence=f"{self.name} was not loaded: nothing could be attached to it.",
                remedy="Choose a decoder of the Llama, Qwen, Gemma or Mistral families.",
            )

    @cached_property
    def projections(self) -> dict[str, nn.Linear]:
        """The attention's q, k, v and o projections by their names in the model."""
        return {
            name: module
            for name, module in self.model.named_modules()
            if name.rsplit(".", 1)[-1] in ATTENTION_PROJECTIONS and hasattr(module, "in_features")
        }

    @cached_property
    def adapters(self) -> Adapters:
        """The LoRA adapters attached to this decoder."""
        return Adapters(self.projections)

    @cached_property
    def beside(self) -> Beside:
        """The states that rows attend to beside their own positions."""
        return Beside(self.adapters.turn)

    def acting(self) -> Callable[[], AbstractContextManager[None]]:
        """What acts on the layers now, as a block inside of which it acts once more.

        For a layer that is computed again in a backward pass, whose thread may be another one: the block takes no turn,
        since whoever waits for the gradients has it.
        """
        adapters, contexts = self.adapters.acting, self.beside.contexts

        @contextmanager
        def again() -> Iterator[None]:
            before = self.adapters.acting, self.beside.contexts
            self.adapters.acting, self.beside.contexts = adapters, contexts
            try:
                yield
            finally:
                self.adapters.acting, self.beside.contexts = before

        return again

    @property
    def width(self) -> int:
        """D."""
        return int(self.model.get_input_embeddings().embedding_dim)

    @property
    def window(self) -> int:
        """Positions that a prompt and its answer may take: those the decoder was trained for, unless it is narrowed."""
        return self.narrowed or int(self.model.config.get_text_config().max_position_embeddings)

    @property
    def kv_shape(self) -> tuple[int, int, int]:
        """L, K and E."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(config.num_hidden_layers), int(heads), int(width)

    @property
    def frequencies(self) -> Tensor:
        """[E / 2] float32: the angle by which RoPE turns components i and i + E / 2 of a head, in radians a position.

        Raises:
            UnsupportedModel: its heads are not turned as a whole, or not alike in every layer.
        """
        angles = getattr(getattr(self.model.base_model, "rotary_emb", None), "inv_freq", None)
        if angles is None or 2 * len(angles) != self.kv_shape[2]:
            raise UnsupportedModel(
                expected="a decoder whose heads are turned by position as a whole, and alike in every layer",
                got=type(self.model).__name__,
                consequence="Nothing was computed: its keys cannot be moved to another position.",
                remedy="Choose a decoder of the Llama, Qwen or Mistral families.",
            )
        found: Tensor = angles.float()
        return found

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        device: torch.device = self.model.device
        return device

    @cached_property
    def _tokenising(self) -> threading.Lock:
        return threading.Lock()

    @cached_property
    def start_ids(self) -> Tensor:
        """[0 or 1] int64: the token that every text of this model starts with, if it has one."""
        ids = self.tokenizer("", add_special_tokens=True)["input_ids"]
        return torch.tensor([i for i in ids if i == self.tokenizer.bos_token_id][:1], dtype=torch.int64)

    @property
    def end_ids(self) -> frozenset[int]:
        """Token ids that end an answer."""
        ends = self.model.generation_config.eos_token_id if self.model.generation_config else None
        ends = ends if isinstance(ends, list) else [ends]
        return frozenset(int(e) for e in [*ends, self.tokenizer.eos_token_id] if e is not None)

    def embed(self, ids: Tensor, embeds: Tensor | None = None) -> Tensor:
        """[..., T] ids -> [..., T, D] input embeddings; `embeds` [N, D] fills the `MEMORY` positions in order."""
        table = self.model.get_input_embeddings()
        ids = ids.to(self.device)
        holes = ids == MEMORY
        out: Tensor = table(ids.masked_fill(holes, 0))
        if embeds is None:
            return out
        return out.masked_scatter(holes.unsqueeze(-1), embeds.to(out))

    def hidden(
        self,
        embeds: Tensor,
        mask: Tensor | Mapping[str, Tensor] | None = None,
        positions: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Last hidden states after the final norm.

        Args:
            embeds: [B, T, D] input embeddings.
            mask: [B, T_past + T] 1 for positions that count, 0 for padding, or what `ragged_mask` gives; None where all
                count.
            positions: [B, T] position ids; None counts from the cache's length.
            cache: keys and values so far; extended in place.

        Returns:
            [B, T, D].
        """
        out = self.model.base_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        states: Tensor = out.last_hidden_state
        return states

    def logits(self, states: Tensor) -> Tensor:
        """[..., D] last hidden states -> [..., V] logits, with the model's own soft cap where it has one."""
        logits: Tensor = self.model.get_output_embeddings()(states)
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return torch.tanh(logits / cap) * cap if cap else logits

    def ragged_mask(self, lengths: Sequence[int]) -> Tensor | dict[str, Tensor]:
        """What one further position of each row may attend to, for rows that all begin at the cache's first place.

        A layer with a sliding window counts what the cache holds, so that given keys are seen for as long as fewer than
        a window of positions came after them.

        Args:
            lengths: positions that the cache holds of each row.

        Returns:
            [B, 1, 1, T_all], or one a kind of layer where that makes a difference.
        """
        config = self.model.config.get_text_config()
        held = torch.tensor(lengths, device=self.device)[:, None, None, None]
        places = torch.arange(max(lengths) + 1, device=self.device)
        masks = dict.fromkeys(("full_attention", "sliding_attention"), places <= held)
        if window := getattr(config, "sliding_window", None):
            masks["sliding_attention"] = masks["full_attention"] & (places > held - window)
        masks = {kind: self._as_read(mask) for kind, mask in masks.items()}
        kinds = layer_kinds(config)
        return masks if len(kinds) > 1 and window and max(lengths) >= window else masks[min(kinds)]

    def open_mask(self, lengths: Sequence[int]) -> Tensor:
        """[B, 1, T, T]: every position of a row may attend to all of the row's, before and behind it.

        Args:
            lengths: positions of each row; the padding behind them attends to the row too, and nothing to it.
        """
        valid = torch.arange(max(lengths), device=self.device) < torch.tensor(lengths, device=self.device)[:, None]
        return self._as_read(valid[:, None, None].expand(-1, 1, max(lengths), -1))

    def _as_read(self, mask: Tensor) -> Tensor:
        """A mask of booleans as the decoder's attention takes it: `eager` adds its masks."""
        if self.model.config.get_text_config()._attn_implementation != "eager":
            return mask
        return torch.zeros_like(mask, dtype=self.dtype).masked_fill(~mask, torch.finfo(self.dtype).min)

    def cache(self, capacity: int, slots: int = 1) -> SlotCache:
        """An empty key/value cache for rows of `capacity` positions, allocated once.

        Raises:
            UnsupportedModel: a layer does something else than attend to all positions or to a sliding window of them.
        """
        return SlotCache(self._cached_layers(), capacity, self.dtype, self.device, slots)

    def growing_cache(self, wide: bool) -> GrowingCache:
        """An empty key/value cache that gradients pass through; `wide` where keys with a bias will be put in.

        Raises:
            UnsupportedModel: as `cache`.
        """
        return GrowingCache(self._cached_layers(), wide, self.dtype, self.device)

    def _cached_layers(self) -> int:
        config = self.model.config.get_text_config()
        other = set(getattr(config, "layer_types", None) or ()) - CACHED_LAYERS
        other |= {name for name in UNCACHED_SETTINGS if getattr(config, name, None)}
        if other:
            raise UnsupportedModel(
                expected=f"layers of {' or '.join(sorted(CACHED_LAYERS))}",
                got=f"{', '.join(sorted(other))} in {self.name}",
                consequence="Nothing was computed: its keys and values cannot be kept position by position.",
                remedy="Choose a decoder of the Llama, Qwen, Gemma or Mistral families.",
            )
        return int(config.num_hidden_layers)

    def frame(self, question: str, context: Sequence[Tensor] = (), history: Sequence[Turn] = ()) -> tuple[Tensor, int]:
        """The chat template around a question, with pieces of context before the first turn.

        Args:
            question: the user's words.
            context: [T_i] ids each, `MEMORY` where something else than a token will stand. With none of them the result
                is the plain prompt of the conversation alone, so that no memory means the base model.
            history: turns before this question.

        Returns:
            [T] int64, and how many of the first positions do not depend on the question or its history.
        """
        asked = [*(turn.question for turn in history), question]
        before, *between, after = self._frame_around(len(history))
        pieces = [*context, self.tokens(INSTRUCTION)] if len(context) else []
        start = self.start_ids if self.tokenizer.chat_template is None else self.start_ids[:0]  # else it brings its own
        shared = [start, self._template(before), *pieces]
        ids = [*shared, self.tokens(asked[0])]
        for turn, words, answered, asking in zip(history, asked[1:], between[::2], between[1::2], strict=True):
            ids += [self._template(answered), self.tokens(turn.answer), self._template(asking), self.tokens(words)]
        return torch.cat([*ids, self._template(after)]), sum(map(len, shared))

    def _frame_around(self, turns: int) -> list[str]:
        """The template's text before the first question, between question and answer and so on, and after the last."""
        if self.tokenizer.chat_template is None:
            return ["Question: ", *["\nAnswer: ", "\n\nQuestion: "] * turns, "\nAnswer:"]
        messages = [{"role": role, "content": SLOT} for role in ["user", "assistant"] * turns + ["user"]]
        rendered = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return str(rendered).split(SLOT)

    def tokens(self, text: str) -> Tensor:
        """[T] int64 token ids of a text; what looks like a special token in it is read as the characters it is."""
        return self._tokenise(text, plain=True)

    def _template(self, text: str) -> Tensor:
        """[T] int64 token ids of a piece of the chat template, special tokens as such."""
        return self._tokenise(text, plain=False)

    def _tokenise(self, text: str, plain: bool) -> Tensor:
        # `split_special_tokens` is kept in the tokenizer itself, so two threads must not set it at once.
        with self._tokenising:
            ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=plain, verbose=False)["input_ids"]
        return torch.tensor(ids, dtype=torch.int64)
