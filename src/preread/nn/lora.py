"""Low-rank adapters on a frozen decoder, by name (LoRA, arXiv 2106.09685, equation 3).

An adapter adds `(alpha / R) * B A x` to the output of chosen linear layers. Here it is added by a forward hook, so the
decoder's modules, names and weights stay what they are, any linear layer will do (a quantised one too), and detaching
is removing the hook. The file format is PEFT's, so that other engines read our adapters and we read theirs.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from preread.core.errors import IntegrityError, UsageError
from preread.core.types import sha256

PEFT_PREFIX = "base_model.model."
PLAIN: Mapping[str, object] = {
    "peft_type": "LORA",
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "alpha_pattern": {},
    "rank_pattern": {},
    "modules_to_save": None,
    "layers_to_transform": None,
    "fan_in_fan_out": False,
    "layer_replication": None,
    "alora_invocation_tokens": None,
    "trainable_token_indices": None,
}
"""PEFT's settings that change what an adapter computes, as plain LoRA has them; any other value is refused."""


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Shape of an adapter.

    Args:
        rank: R.
        alpha: the update is scaled by alpha / R.
        dropout: share of the inputs dropped in training.
        targets: last parts of the names of the layers it sits on.

    Raises:
        UsageError: a rank, alpha or dropout that makes no adapter.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.alpha < math.inf or not 0 <= self.dropout < 1:
            raise UsageError(
                expected="a rank of at least 1, an alpha above 0 and a dropout from 0 to below 1",
                got=f"rank: {self.rank}, alpha: {self.alpha}, dropout: {self.dropout}",
                consequence="No adapter was made.",
                remedy="Correct `lora` in the recipe: rank 8 and alpha 16 are usual.",
            )


def digest(module: nn.Module) -> str:
    """Hex SHA-256 of every number of a module, with its name."""
    return sha256(*(n.encode() + v.detach().cpu().numpy().tobytes() for n, v in module.state_dict().items()))


def compact(tensor: Tensor) -> Tensor:
    """A tensor for a file: in bfloat16 where that holds every number of it exactly, else as it is."""
    plain = tensor.detach().cpu().contiguous()
    half = plain.bfloat16()
    return half if torch.equal(half.to(plain.dtype), plain) else plain


_made = itertools.count()
"""Numbers adapters as they are made."""


class Lora(nn.Module):
    """One adapter: matrices A [R, in] and B [out, R] for each layer; B starts at zero, so it starts as nothing.

    Parameters are float32: a bfloat16 step of the size that training takes would round to nothing.
    """

    def __init__(self, config: LoraConfig, layers: Mapping[str, nn.Linear]) -> None:
        super().__init__()
        self.config, self._made = config, next(_made)
        self.a, self.b = nn.ParameterDict(), nn.ParameterDict()
        for name, layer in layers.items():
            if name.rsplit(".", 1)[-1] in config.targets:
                key, device = name.replace(".", "/"), layer.weight.device
                self.a[key] = nn.Parameter(torch.empty(config.rank, layer.in_features, device=device))
                self.b[key] = nn.Parameter(torch.zeros(layer.out_features, config.rank, device=device))
                nn.init.kaiming_uniform_(self.a[key], a=math.sqrt(5))

    @property
    def version(self) -> tuple[int, int]:
        """Names these numbers in this process: another adapter, or this one after a training step, has another.

        What is written past autograd's back, through `.data`, does not show.
        """
        return self._made, sum(0 if p.is_inference() else p._version for p in self.parameters())

    def delta(self, name: str, x: Tensor) -> Tensor | None:
        """[..., in] input of a layer -> [..., out] update of its output; None where the adapter has no such layer."""
        key = name.replace(".", "/")
        if key not in self.a:
            return None
        x = F.dropout(x, self.config.dropout, self.training)
        low = F.linear(x, self.a[key].to(x.dtype))
        return F.linear(low, self.b[key].to(x.dtype)) * (self.config.alpha / self.config.rank)

    def update(self, name: str) -> Tensor:
        """[out, in] float32: what it adds to the weights of a layer that it sits on."""
        key = name.replace(".", "/")
        product: Tensor = self.b[key].detach() @ self.a[key].detach()
        return product * (self.config.alpha / self.config.rank)

    def tensors(self) -> dict[str, Tensor]:
        """Every matrix by its name in PEFT's file, on the CPU."""
        matrices = {(key, letter): m for letter, of in (("A", self.a), ("B", self.b)) for key, m in of.items()}
        return {_name(key, letter): compact(matrix) for (key, letter), matrix in matrices.items()}

    def take(self, tensors: dict[str, Tensor]) -> None:
        """Copy every matrix out of a PEFT file's tensors, and remove those from it.

        Raises:
            KeyError: one is missing.
            ValueError: one has another shape.
        """
        for letter, matrices in (("A", self.a), ("B", self.b)):
            for key, matrix in matrices.items():
                fill(matrix, _name(key, letter), tensors)

    def save(self, folder: Path) -> None:
        """Write PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`."""
        write(folder, settings(self.config), self.tensors())

    @staticmethod
    def load(folder: Path, layers: Mapping[str, nn.Linear], beside: str | None = None) -> Lora:
        """Read PEFT's layout.

        Args:
            folder: with `adapter_config.json` and `adapter_model.safetensors`.
            layers: the decoder's linear layers by name.
            beside: a module that the file also holds whole, and that is somebody else's to read.

        Raises:
            IntegrityError: the files are missing or damaged, or their layers or shapes are not the decoder's.
        """
        try:
            raw, tensors = read(folder)
            if beside is not None and raw.get("modules_to_save") == [beside]:
                raw["modules_to_save"] = None
            tensors = {name: tensor for name, tensor in tensors.items() if beside not in name.split(".")}
            lora = Lora(shape(raw), layers)
            lora.take(tensors)
            expect_none(tensors)
        except Exception as error:
            raise damaged(folder, error) from error
        return lora.eval()


def settings(config: LoraConfig) -> dict[str, object]:
    """What `adapter_config.json` says of an adapter."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": list(config.targets),
        "bias": "none",
        "inference_mode": True,
    }


def shape(raw: Mapping[str, Any]) -> LoraConfig:
    """The adapter that an `adapter_config.json` describes.

    Raises:
        KeyError: it leaves something out.
        ValueError: it is a variant of LoRA that is not read here.
    """
    if changed := [key for key, plain in PLAIN.items() if raw.get(key, plain) not in (plain, None, {}, [])]:
        raise ValueError(f"a variant of LoRA that is not read here ({', '.join(changed)})")
    return LoraConfig(raw["r"], raw["lora_alpha"], raw.get("lora_dropout", 0.0), tuple(raw["target_modules"]))


def write(folder: Path, config: Mapping[str, object], tensors: dict[str, Tensor]) -> None:
    """Write a PEFT folder, made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a PEFT folder says and holds; its tensors are on the CPU."""
    raw = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return raw, load_file(folder / "adapter_model.safetensors")


def fill(parameter: nn.Parameter, name: str, tensors: dict[str, Tensor]) -> None:
    """Copy the tensor of a name into a parameter, and remove it from the others.

    Raises:
        KeyError: there is none.
        ValueError: it has another shape.
    """
    if tensors[name].shape != parameter.shape:  # a copy would spread a single row over all
        raise ValueError(f"{name} of shape {tuple(tensors[name].shape)}, not {tuple(parameter.shape)}")
    parameter.data.copy_(tensors.pop(name))


def expect_none(tensors: Mapping[str, Tensor]) -> None:
    """Refuse what nobody has taken out of a file.

    Raises:
        ValueError: something is left.
    """
    if tensors:
        raise ValueError(f"{len(tensors)} tensors that fit no layer, such as {next(iter(tensors))}")


def damaged(folder: Path, error: Exception) -> IntegrityError:
    """The error of a PEFT folder that cannot be read."""
    return IntegrityError(
        expected=f"a LoRA adapter in PEFT's layout for this decoder in {folder}",
        got=f"{type(error).__name__}: {error}",
        consequence="The adapter was not loaded; the decoder is unchanged.",
        remedy="Train it again for this decoder, or name the decoder it was trained for.",
    )


def _name(key: str, letter: str) -> str:
    return f"{PEFT_PREFIX}{key.replace('/', '.')}.lora_{letter}.weight"
