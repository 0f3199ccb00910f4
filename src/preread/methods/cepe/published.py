"""CEPE's published checkpoints as readers (arXiv 2402.16617, the authors' repository, `hyen/CEPE-LLaMA-2-7B`).

Their layout is a whole language model: the base decoder by its own names, in each of its last n layers a `cross_attn`
of q, k, v, o and a norm, and an `encoder` of Llama's blocks. The decoder was frozen, so a reader holds the rest, and
only goes onto the decoder that the file's is. Where the files are pickles (`.bin`), tensors alone are taken out of
them, once and by the user's own command.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from preread.core.errors import FingerprintMismatch, IntegrityError, PrereadError, UsageError, first_line
from preread.core.folders import replaced
from preread.core.progress import progress
from preread.methods.cepe.own import OwnEncoderConfig
from preread.methods.cepe.reader import Reader, ReaderConfig, Trained
from preread.models import pickles
from preread.nn.hf import Decoder

CHUNK, STATES = 256, 4096
"""Tokens of a chunk, and states that a row of the main stage attended to; CEPED's were 2048."""
SEQUENCES = 20_000 * 128
"""Of the main stage, each with as many tokens for the decoder as for the encoder."""
NAMES = {"layernorm.weight": "norm", **{f"{name}_proj.weight": name for name in ("q", "k", "v", "o")}}
"""Of a cross-attention's tensors: theirs, and ours."""
PLAIN: Mapping[str, object] = {
    "hidden_act": "silu",
    "rope_scaling": None,
    "attention_bias": False,
    "is_decoder": False,
    "do_cross_attention": False,
}
"""An encoder's settings that change what it computes, as they were published; any other value is refused."""
WHOLE: Mapping[str, object] = {"num_cross_attn_hidden_states": 1, "encoder_is_model": False}
"""The same of the whole model."""
HALF = 2
"""Bytes of a number, at least."""
ROUNDED = 2**-7
"""By how much of itself a frozen weight may differ: what bfloat16 rounds away, once on either side."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What was converted.

    Args:
        folder: a reader in our layout, with its manifest.
        base: name of the decoder that it is for.
        layers: of the decoder with cross-attention.
        parameters: what the reader adds to the decoder.
    """

    folder: Path
    base: str
    layers: int
    parameters: int


def convert(source: Path, target: Path, decoder: Decoder, states: int = STATES) -> Converted:
    """Write a published checkpoint as a reader, which the method `cepe` reads.

    Args:
        source: the published folder.
        target: new or empty.
        decoder: the base model that it was trained with, not quantised.
        states: most states that a row attended to in training, which its files do not say.

    Raises:
        UsageError: the target holds something.
        IntegrityError: the files are missing or damaged, or hold other things than tensors.
        FingerprintMismatch: they are of another base model.
        ResourceError: the disk is full or not writable; nothing is left there.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError("a new or empty folder to write", f"{target}", "Nothing was converted.", "Choose another one.")
    try:
        reader = _read(source, decoder, states)
    except UsageError as error:  # a shape that is none: nobody here chose it
        raise _damaged(source, error.got) from error
    except PrereadError:
        raise
    except Exception as error:  # whatever damaged files may lead to
        raise _damaged(source, f"{type(error).__name__}: {first_line(error)}") from error
    training = {"converted": source.name, "recipe": {"model": decoder.name}, "documents": []}
    replaced(target, lambda part: reader.save(part, training))
    parameters = sum(parameter.numel() for parameter in reader.parameters())
    return Converted(target, decoder.name, len(reader.crossings.modules_by_layer), parameters)


def _read(source: Path, decoder: Decoder, states: int) -> Reader:
    shape = _shape(json.loads((source / "config.json").read_text(encoding="utf-8")), decoder)
    files = sorted(source.glob("*.safetensors")) or sorted(source.glob("pytorch_model*.bin"))
    _expect_room(shape, sum(file.stat().st_size for file in files))
    tokens = 2 * states * SEQUENCES
    reader = Reader(decoder, shape, Trained(states, tokens, f"a published CEPE checkpoint ({source.name})"))
    ours = {_their_name(name): parameter for name, parameter in reader.named_parameters() if name != "order"}
    base = dict(decoder.model.named_parameters())
    with progress(f"converting {source.name}", total=len(ours) + len(base)) as advance:
        for name, tensor in (pair for file in files for pair in _tensors(file)):
            if name in ours:
                _fill(ours.pop(name), name, tensor)
            elif name in base:
                _require_same(base.pop(name), name, tensor, decoder)
            elif not name.endswith("rotary_emb.inv_freq"):  # computed, and kept by old versions of the library alone
                raise ValueError(f"a tensor that fits nothing, {name}")
            advance()
    if left := [*ours, *base]:
        raise ValueError(f"{len(left)} tensors missing, such as {left[0]}")
    reader.settle()
    return reader


def _shape(config: Mapping[str, Any], decoder: Decoder) -> ReaderConfig:
    """Of a reader, from their `config.json`.

    Raises:
        ValueError: they describe something that was never published, or not for a decoder of this size.
    """
    encoder, layers, crossed = config["encoder_config"], decoder.kv_shape[0], config["num_cross_attn_layers"]
    other = [f"{name}: {encoder[name]}" for name, plain in PLAIN.items() if encoder.get(name, plain) != plain]
    other += [f"{name}: {config[name]}" for name, plain in WHOLE.items() if config.get(name, plain) != plain]
    if not 0 < crossed <= layers:
        other.append(f"cross-attention in {crossed} layers of {layers}")
    if encoder["vocab_size"] < (rows := int(decoder.model.get_input_embeddings().num_embeddings)):
        other.append(f"an encoder of {encoder['vocab_size']} tokens of {rows}")
    if other:
        raise ValueError(f"what none of theirs has, {', '.join(other)}")
    heads = encoder["num_attention_heads"]
    own = OwnEncoderConfig(
        vocabulary=encoder["vocab_size"],
        width=encoder["hidden_size"],
        layers=encoder["num_hidden_layers"],
        heads=heads,
        kv_heads=encoder.get("num_key_value_heads") or heads,
        inner=encoder["intermediate_size"],
        eps=encoder["rms_norm_eps"],
        base=encoder.get("rope_theta", OwnEncoderConfig.base),
        chunk=CHUNK,
    )
    return ReaderConfig(own=own, layers=tuple(range(layers - crossed, layers)), begin="copied")


def _expect_room(shape: ReaderConfig, held: int) -> None:
    """Refuse an encoder for which the files have no room, before memory is taken for it.

    Raises:
        ValueError: it is larger than they are.
    """
    own = shape.own or OwnEncoderConfig()
    numbers = own.width * (own.vocabulary + own.layers * (2 * own.width + 3 * own.inner))
    if HALF * numbers > held:
        raise ValueError(f"{held:,} bytes of weights for an encoder of {numbers:,} numbers")


def _their_name(ours: str) -> str:
    """Their name of a reader's parameter."""
    if ours.startswith("encoder.model."):
        return ours.replace("encoder.model.", "encoder.", 1)
    _, _, layer, part = ours.split(".")
    return f"model.layers.{layer}.cross_attn.{next(theirs for theirs, own in NAMES.items() if own == part)}"


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a file, one after the other."""
    if file.suffix == ".bin":
        yield from pickles.tensors(file).items()
        return
    with safe_open(file, framework="pt") as held:
        for name in held.keys():  # noqa: SIM118  # not a mapping
            yield name, held.get_tensor(name)


def _fill(parameter: Tensor, name: str, tensor: Tensor) -> None:
    if tensor.shape != parameter.shape:  # a copy would spread a single row over all
        raise ValueError(f"{name} of shape {tuple(tensor.shape)}, not {tuple(parameter.shape)}")
    if not (tensor.is_floating_point() and tensor.isfinite().all()):
        raise ValueError(f"{name} of other things than finite numbers")
    with torch.no_grad():
        parameter.copy_(tensor)


def _require_same(weight: Tensor, name: str, theirs: Tensor, decoder: Decoder) -> None:
    """Refuse a checkpoint whose frozen part is not the decoder."""
    same = theirs.shape == weight.shape and torch.allclose(theirs.float(), weight.cpu().float(), ROUNDED, 1e-6)
    if not same:
        raise FingerprintMismatch(
            expected=f"a checkpoint that was trained with {decoder.name}",
            got=f"one with another {name}",
            consequence="It was not converted, because its states mean nothing to these weights.",
            remedy="Name the base model that it was trained with: Llama 2, or for CEPED its chat model, unquantised.",
        )


def _damaged(folder: Path, got: str) -> IntegrityError:
    return IntegrityError(
        expected=f"a published CEPE checkpoint for this decoder in {folder}",
        got=got,
        consequence="Nothing was converted, and no code was run.",
        remedy="Fetch the folder again from its authors, and name the base model that it was trained with.",
    )
