"""What cannot be done is refused before any work, with the reason."""

from __future__ import annotations

from preread.core.errors import IntegrityError, UsageError, WindowExceeded
from preread.core.types import KeyValues, Prompt, Sampling
from preread.nn.cpu import require_weighted
from preread.nn.hf import Decoder
from preread.nn.reading import next_position, weighted


def refuse(decoder: Decoder, prompt: Prompt, sampling: Sampling) -> None:
    """Refuse a prompt that this decoder cannot answer.

    Raises:
        UsageError: an empty prompt, one that ends with memory, or one with states that nothing attached reads.
        WindowExceeded: the prompt and `max_tokens` do not fit the decoder's window.
        IntegrityError: embeddings, keys or values are not finite, or not of this decoder's shape.
        UnsupportedModel: keys carry a bias, or none can be kept, and the decoder's layers are not made so.
    """
    if not len(prompt) or (prompt.kv is not None and int(prompt.ids[-1]) < 0):
        raise UsageError(
            expected="a prompt that ends with a position to go on from",
            got="given keys and values at its end" if len(prompt) else "an empty one",
            consequence="Nothing was computed.",
            remedy="Ask a question.",
        )
    read, window = max(len(prompt), next_position(prompt)), decoder.window
    if read + sampling.max_tokens > window:
        raise WindowExceeded(
            expected=f"at most {window} positions, the window of {decoder.name}",
            got=f"{read + sampling.max_tokens}: {read} of the prompt and {sampling.max_tokens} to write",
            consequence="Nothing was computed.",
            remedy="Ask of fewer passages, write fewer tokens, or use a method that compresses the text.",
        )
    decoder.beside.require(prompt)
    if wrong := _wrong(decoder, prompt):
        raise IntegrityError(
            expected="a memory in the prompt that is finite and of the decoder's shape",
            got=wrong,
            consequence="Nothing was computed.",
            remedy="Add the document again to rebuild its memory.",
        )
    if weighted(prompt):
        require_weighted(decoder)
    decoder.cache(0)  # refuses a decoder whose keys and values it cannot keep


def _wrong(decoder: Decoder, prompt: Prompt) -> str:
    if prompt.embeds is not None and not bool(prompt.embeds.isfinite().all()):
        return "embeddings that are infinite or NaN"
    if prompt.states is not None and not bool(prompt.states.isfinite().all()):
        return "states that are infinite or NaN"
    if prompt.kv is None:
        return ""
    kv = prompt.kv
    # A bias of minus infinity is right: it takes its key out.
    if not bool(kv.keys.isfinite().all() and kv.values.isfinite().all() and (kv.bias < float("inf")).all()):
        return "keys, values or biases that are infinite or NaN"
    return "" if _fits(decoder, kv) else f"keys of shape {tuple(kv.keys.shape)}, values {tuple(kv.values.shape)}"


def _fits(decoder: Decoder, kv: KeyValues) -> bool:
    layers, heads, width = decoder.kv_shape
    shape = (layers, heads, len(kv))
    return (*shape, width) == tuple(kv.keys.shape) == tuple(kv.values.shape) and shape == tuple(kv.bias.shape)
