"""What cross-attention over an encoder's states could gain at most, from the FLOPs and bytes that either way needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from preread.core.errors import UsageError
from preread.methods.cepe.encoder import ContextEncoder
from preread.methods.cepe.own import OwnEncoder
from preread.methods.cepe.reader import Reader
from preread.nn.hf import Decoder


@dataclass(frozen=True)
class Setting:
    """A text of chunks that an encoder reads and of tokens that the decoder reads.

    Args:
        chunks: how many, each as long as the encoder takes.
        near: tokens that the decoder reads itself.
        question: tokens of a question over the chunks' states.
    """

    chunks: int
    near: int
    question: int = 256


@dataclass(frozen=True)
class Sizes:
    """What the costs depend on.

    Args:
        layers: L, of the decoder.
        linear: weights of its layers, which each token passes.
        head: weights of its output.
        heads: H.
        queries: H * E.
        keys: K * E.
        width: D.
        state: S.
        crossings: layers with cross-attention.
        crossing: weights of all of them.
        encoder: weights of the encoder's layers.
        encoder_layers: how many.
        encoder_queries: H * E of the encoder.
        chunk: tokens of a chunk.
        itemsize: bytes of a number.
    """

    layers: int
    linear: int
    head: int
    heads: int
    queries: int
    keys: int
    width: int
    state: int
    crossings: int
    crossing: int
    encoder: int
    encoder_layers: int
    encoder_queries: int
    chunk: int
    itemsize: int


def sizes(decoder: Decoder, reader: Reader) -> Sizes:
    """Those of a decoder and its reader.

    Raises:
        UsageError: its encoder is a borrowed one, whose costs nobody counted.
    """
    modules = list(reader.crossings.modules_by_layer.values())
    layers, kv_heads, width = decoder.kv_shape
    own = list(decoder.model.base_model.layers)
    encoder = reader.encoder
    if isinstance(encoder, OwnEncoder):
        blocks, queries = list(encoder.model.layers), encoder.width
    elif not isinstance(encoder, ContextEncoder):
        raise UsageError(
            expected="a reader whose encoder is the decoder's bottom or its own",
            got="a borrowed one",
            consequence="Nothing was measured.",
            remedy="Measure a reader of another kind.",
        )
    else:
        blocks, queries = own[: encoder.layers], _queries(decoder)
    return Sizes(
        layers=layers,
        linear=_numbers(own),
        head=decoder.model.get_output_embeddings().weight.numel(),
        heads=_queries(decoder) // width,
        queries=_queries(decoder),
        keys=kv_heads * width,
        width=decoder.width,
        state=encoder.width,
        crossings=len(modules),
        crossing=_numbers(modules),
        encoder=_numbers(blocks),
        encoder_layers=len(blocks),
        encoder_queries=queries,
        chunk=encoder.chunk,
        itemsize=decoder.dtype.itemsize,
    )


def limits(of: Sizes, setting: Setting) -> dict[str, float]:
    """How many times as much full attention needs, a row of the table each: FLOPs, and bytes for decoding.

    A state costs at least its place in the shared tensor: bytes count it once for each layer that attends.
    """
    far = setting.chunks * of.chunk
    whole, near = _read(of, far + setting.near), _read(of, setting.near) + crossing_flops(of, setting.near, far)
    encoded = 2 * far * of.encoder + 4 * far * of.chunk * of.encoder_queries * of.encoder_layers
    asked = _read(of, setting.question) + crossing_flops(of, setting.question, far)
    return {
        "forward": whole / (near + encoded),
        "stored": whole / near,
        "question": _read(of, far + setting.question) / asked,
        "decode": _held(of, far + setting.near)
        / (_held(of, setting.near) + of.itemsize * (of.crossing + of.crossings * far * of.state)),
    }


def _read(of: Sizes, tokens: int) -> float:
    """FLOPs of reading text: linear layers, and causal attention over half of the pairs."""
    return 2 * tokens * of.linear + of.layers * 2 * tokens**2 * of.queries


def crossing_flops(of: Sizes, tokens: int, states: int) -> float:
    """FLOPs of cross-attention in all its layers, the way that needs fewer."""
    ends = 4 * tokens * of.width * of.queries
    expanded = 4 * states * of.state * of.keys + 4 * tokens * states * of.queries
    absorbed = 4 * tokens * of.state * (of.queries + states * of.heads)
    return of.crossings * (ends + min(expanded, absorbed))


def _held(of: Sizes, tokens: int) -> float:
    """Bytes that a token reads: weights once, and keys and values of all tokens."""
    return of.itemsize * (of.linear + of.head + 2 * of.layers * tokens * of.keys)


def _queries(decoder: Decoder) -> int:
    return int(decoder.model.base_model.layers[0].self_attn.q_proj.out_features)


def _numbers(modules: Iterable[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())
