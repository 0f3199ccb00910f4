"""AutoCompressors as their authors publish them, as our compressors (arXiv 2305.14788; LLoCO uses the Llama-2 one).

Their layout is a language model with one more matrix, `embed_summary.weight` [N, D]: the summary tokens. It comes as

- the whole model, with its LoRA merged into the weights (`AutoCompressor-Llama-2-7b-6k`): that model both compresses
  and answers, so it is the decoder (`load` takes its folder), and the compressor adds summary tokens and nothing else;
- a PEFT adapter with `embed_summary` saved beside it, over the model it was trained from: the adapter is the
  compressor's LoRA. Their model answers with the adapter on as well. Here the bare decoder answers, unless the same
  folder's adapter (`adapter`) is attached for that too.

In both a segment has no start token of its own, all N summary tokens however long it is, and no output norm. The LLoCO
adapters are plain PEFT over the merged model: `Lora.load` reads them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from preread.core.errors import FingerprintMismatch, IntegrityError, UnsupportedModel
from preread.methods.lloco.compressor import Compressor
from preread.methods.lloco.shape import CompressorConfig, Trained
from preread.nn.hf import Decoder
from preread.nn.lora import Lora, LoraConfig

SUMMARY = "embed_summary"
ADAPTER = "adapter_config.json"
NO_LORA = LoraConfig(targets=())
LLAMA_2_7B_6K = Trained(
    segments=4,
    segment_tokens=1536,
    positions=150,  # three segments' summaries before the last segment
    ratios=(1.0, 1536.0),  # whatever the ratio says: it is the segment's length over the summary tokens
    tokens=15 * 10**9,
    note="a published AutoCompressor",
)


def read(folder: Path, decoder: Decoder, trained: Trained = LLAMA_2_7B_6K) -> Compressor:
    """The compressor in a published folder; `save` it to have it in our layout.

    Args:
        folder: safetensors of the whole model, or of an adapter, with `embed_summary.weight`.
        decoder: loaded from the same folder where it holds the whole model; else what the adapter was trained for.
        trained: what it was trained for, which the layout does not say; by default as `AutoCompressor-Llama-2-7b-6k`.

    Raises:
        IntegrityError: no summary tokens, or damaged files.
        FingerprintMismatch: the folder's model is not the decoder.
        UnsupportedModel: it keeps only the last segment's summary.
    """
    summary = _summary_tokens(folder)
    if summary.shape[1:] != (decoder.width,):
        raise _other(folder, decoder, f"summary tokens of shape {tuple(summary.shape)}")
    lora = adapter(folder, decoder) if (folder / ADAPTER).is_file() else None
    if lora is None:
        _require_same_model(folder, decoder)
    shape = lora.config if lora else NO_LORA
    config = CompressorConfig(len(summary), lora=shape, norm=False, start=False, fixed=True)
    compressor = Compressor(decoder, config, trained)
    if lora is not None:
        compressor.lora.load_state_dict(lora.state_dict())
    compressor.summary_tokens.data.copy_(summary)
    return compressor.eval().requires_grad_(False)


def adapter(folder: Path, decoder: Decoder) -> Lora:
    """The LoRA of a published adapter folder, summary tokens aside.

    Raises:
        IntegrityError: damaged, or of another decoder's shape.
    """
    return Lora.load(folder, decoder.projections, beside=SUMMARY)


def unpickle(source: Path, target: Path) -> None:
    """Convert a folder's `.bin` files, which are pickles, to safetensors, and copy its JSON and tokenizer files.

    Only tensors are read: a pickle that asks for anything else is refused by torch.

    Raises:
        IntegrityError: a file is damaged, or holds other things than tensors.
    """
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        if file.suffix == ".bin":
            try:
                tensors = torch.load(file, map_location="cpu", weights_only=True)
                plain = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
            except Exception as error:  # whatever a pickle's bytes may lead to
                raise _damaged(source, f"{file.name}: {str(error).splitlines()[0]}") from error
            save_file(plain, target / _safe_name(file.name), metadata={"format": "pt"})
        elif file.name.endswith(".bin.index.json"):
            index = json.loads(file.read_text(encoding="utf-8"))
            index["weight_map"] = {name: _safe_name(part) for name, part in index["weight_map"].items()}
            name = _safe_name(file.name.removesuffix(".index.json")) + ".index.json"
            (target / name).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        elif file.suffix in (".json", ".model", ".jinja", ".txt"):
            shutil.copy(file, target)


def _safe_name(pickle: str) -> str:
    return pickle.replace("pytorch_model", "model").removesuffix(".bin") + ".safetensors"


def _summary_tokens(folder: Path) -> Tensor:
    """[N, D] in float32."""
    if (config := folder / "config.json").is_file() and not json.loads(config.read_text(encoding="utf-8")).get(
        "accumulate_summary", True
    ):
        raise UnsupportedModel(
            expected="an AutoCompressor that accumulates its summaries",
            got=f"accumulate_summary: false in {config}",
            consequence="It was not loaded.",
            remedy="Choose one of the published Llama-2 ones.",
        )
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  # not a mapping
                    if SUMMARY in name.split("."):
                        summary: Tensor = tensors.get_tensor(name).float()
                        return summary
        except Exception as error:
            raise _damaged(folder, f"{file.name}: {error}") from error
    raise _damaged(folder, f"no {SUMMARY}.weight in its safetensors files")


def _require_same_model(folder: Path, decoder: Decoder) -> None:
    """Refuse a merged model's summary tokens for any other decoder than that model."""
    wanted = {f"{name}.weight": layer.weight for name, layer in decoder.projections.items()}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in wanted.keys() & set(tensors.keys()):
                weight = wanted.pop(name)
                theirs = tensors.get_tensor(name).to(weight.dtype).to(weight.device)
                if theirs.shape != weight.shape or not torch.equal(theirs, weight):
                    raise _other(folder, decoder, f"another {name}")
    if wanted:
        raise _other(folder, decoder, f"no {next(iter(wanted))}")


def _other(folder: Path, decoder: Decoder, got: str) -> FingerprintMismatch:
    return FingerprintMismatch(
        expected=f"in {folder} the AutoCompressor that {decoder.name} is",
        got=got,
        consequence="It was not loaded, because its summaries mean nothing to these weights.",
        remedy=f"Load the decoder from {folder} itself, unquantised, or name the model its adapter was trained for.",
    )


def _damaged(folder: Path, got: str) -> IntegrityError:
    return IntegrityError(
        expected=f"a published AutoCompressor in {folder}",
        got=got,
        consequence="It was not loaded.",
        remedy="Fetch the folder again; pickled weights (.bin) are first converted with `unpickle`.",
    )
