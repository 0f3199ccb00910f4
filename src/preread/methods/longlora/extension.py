"""What training adds to a decoder for a longer window: LoRA, and norms and embeddings that train whole ("LoRA+").

Source: LongLoRA, arXiv 2309.12307, section 3.3: low-rank updates of the attention alone do not learn a longer window,
with norms and embeddings they do. It is one PEFT checkpoint on disk, which peft reads as the same function.

Where it matters what a decoder is like: an output head that is tied to the embeddings stays tied (one set of numbers
trains in both places); one that is not stays as it was, as in the paper.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from preread.core.errors import UsageError
from preread.core.types import sha256
from preread.methods.longlora.parts import head_path, last, linear, norms, table_path, tied
from preread.methods.longlora.table import TableLora
from preread.nn import lora as peft
from preread.nn.hf import Decoder
from preread.nn.lora import Lora, LoraConfig, compact, digest
from preread.nn.masters import Masters

WHOLE = "extension.safetensors"
"""All weights of a decoder, where all of them train."""
NO_TARGETS = "dummy-target-modules"
"""PEFT's word for an adapter that has modules to save and no low-rank matrices."""
_extended: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # LoRA alone replaces no weight that would show it


@dataclass(frozen=True)
class ExtensionConfig:
    """What trains.

    Args:
        lora: low-rank updates of linear layers; None for none.
        norms: every norm's weights, whole.
        embeddings: `full`, the whole table; `lora`, a low-rank update of it (of `lora`'s rank); or `frozen`. An output
            head that is tied to the table goes with it; another one stays frozen.
        everything: full fine-tuning; the other fields are then as for nothing else.
    """

    lora: LoraConfig | None = LoraConfig(dropout=0.0)
    norms: bool = True
    embeddings: Literal["frozen", "full", "lora"] = "full"
    everything: bool = False

    def __post_init__(self) -> None:
        if self.everything:  # two ways to say the same are equal
            for name, nothing in (("lora", None), ("norms", False), ("embeddings", "frozen")):
                object.__setattr__(self, name, nothing)
        if self.embeddings == "lora" and self.lora is None:
            raise _senseless("a shape for the embeddings' LoRA", "embeddings: lora beside lora: null")
        if not ((self.lora and self.lora.targets) or self.norms or self.embeddings != "frozen" or self.everything):
            raise _senseless("something that trains", "nothing: no LoRA, no norms, frozen embeddings")


class Extension(nn.Module):
    """What trains, as float32 parameters beside a decoder; it begins as nothing.

    Args:
        config: what trains.
        decoder: whose layers it is for; not changed until `attach`.

    Raises:
        UsageError: the decoder has no layer of a name that LoRA is to sit on, or its weights are quantised and
            everything is to train.
    """

    def __init__(self, config: ExtensionConfig, decoder: Decoder) -> None:
        super().__init__()
        self.config, self._decoder = config, decoder
        self._hooks: list[RemovableHandle] = []
        self._attached = False
        _expect_possible(config, decoder)
        self.lora = Lora(config.lora, linear(decoder.model)) if config.lora is not None else None
        wanted = config.lora if config.embeddings == "lora" else None
        self.table = TableLora(wanted, decoder.model) if wanted is not None else None
        self.masters = Masters(decoder.model, _trained(config, decoder))

    @property
    def hash(self) -> str:
        """Hex SHA-256 of its shape and of every number of it."""
        return sha256(json.dumps(asdict(self.config), sort_keys=True), digest(self))

    def attach(self) -> None:
        """Have the decoder compute with it, until `detach`.

        Raises:
            UsageError: this one or another extension is attached.
        """
        model = self._decoder.model
        if model in _extended:
            wanted, given = "a decoder that nothing else extends", f"{self._decoder.name} with an extension attached"
            raise UsageError(wanted, given, "Nothing was attached.", "Detach the other extension first.")
        self.masters.attach()
        _extended.add(model)
        if self.lora is not None:
            layers = linear(model)
            names = [key.replace("/", ".") for key in self.lora.a]
            self._hooks = [layers[name].register_forward_hook(_adding(self.lora, name)) for name in names]
        if self.table is not None:
            self._hooks += self.table.hook(model)
        self._attached = True

    def refresh(self) -> None:
        """Have the decoder compute with the numbers as they are now, and gradients reach them: before every step."""
        if self._attached:
            self.masters.refresh()

    def detach(self) -> None:
        """The decoder is bit for bit what it was; a second call does nothing."""
        if self._attached:
            _extended.discard(self._decoder.model)
            self.masters.detach()
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._attached = [], False

    def settle(self) -> None:
        """Round everything to the dtype that the decoder computes in: nothing that is computed changes.

        A file of half the size then holds it exactly, where that is bfloat16. An extension that is in force stays so.
        """
        self.masters.settle()
        with torch.no_grad():
            for part in self._low_rank:
                for parameter in part.parameters():
                    parameter.copy_(parameter.to(self._decoder.dtype))
        self.refresh()

    @torch.no_grad()
    def merged(self) -> dict[str, Tensor]:
        """The decoder's parameters that it changes, with the change in them, by name; a tied one is one tensor.

        They are added up in float32 and have the decoder's dtype.
        """
        own = dict(self._decoder.model.named_parameters(remove_duplicate=False))
        made: dict[int, Tensor] = {}  # by parameter
        for name, master in self.masters.named().items():
            made[id(own[name])] = master.to(own[name].dtype, copy=True)
        if self.lora is not None:
            for path in (key.replace("/", ".") for key in self.lora.a):
                weight = own[f"{path}.weight"]
                made[id(weight)] = (weight.float() + self.lora.update(path)).to(weight.dtype)
        if self.table is not None:
            weight = own[f"{self.table.path}.weight"]
            made[id(weight)] = (weight.float() + self.table.update()).to(weight.dtype)
        return {name: made[id(weight)] for name, weight in own.items() if id(weight) in made}

    def save(self, folder: Path) -> None:
        """Write a PEFT checkpoint, or `extension.safetensors` where everything trains."""
        if self.config.everything:
            folder.mkdir(parents=True, exist_ok=True)
            whole = {key.replace("/", "."): compact(master) for key, master in self.masters.copies.items()}
            save_file(whole, folder / WHOLE, metadata={"format": "pt"})
            return
        # A tied head has a copy of its own, without which peft does not load the file.
        tensors = {peft.PEFT_PREFIX + name: compact(master).clone() for name, master in self.masters.named().items()}
        for part in self._low_rank:
            tensors |= part.tensors()
        peft.write(folder, self._settings(), tensors)

    @staticmethod
    def load(folder: Path, decoder: Decoder) -> Extension:
        """Read what `save` wrote, or any PEFT checkpoint of such parts; it is not attached, and nothing of it trains.

        Raises:
            IntegrityError: files are missing or damaged, or are not for a decoder of this shape.
        """
        try:
            whole = (folder / WHOLE).is_file()
            extension = _whole(folder, decoder) if whole else _from_peft(*peft.read(folder), decoder)
        except Exception as error:
            raise peft.damaged(folder, error) from error
        return extension.requires_grad_(False).eval()

    @property
    def _low_rank(self) -> list[Lora | TableLora]:
        return [part for part in (self.lora, self.table) if part is not None]

    def _settings(self) -> dict[str, object]:
        """What `adapter_config.json` says."""
        settings = peft.settings(self.config.lora or LoraConfig(dropout=0.0))
        if self.config.lora is None:
            settings["target_modules"] = NO_TARGETS
        elif self.table is not None:
            settings["target_modules"] = [*self.config.lora.targets, last(self.table.path)]
        modules = {last(name.rpartition(".")[0]) for name in _trained(self.config, self._decoder)}
        settings["modules_to_save"] = sorted(modules) or None
        settings["ensure_weight_tying"] = self.config.embeddings != "frozen" and tied(self._decoder.model)
        return settings


def _adding(lora: Lora, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
    def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        delta = lora.delta(name, inputs[0])
        return None if delta is None else output + delta

    return add


def _trained(config: ExtensionConfig, decoder: Decoder) -> set[str]:
    """Names of the parameters that train whole."""
    if config.everything:
        return {name for name, _ in decoder.model.named_parameters()}
    whole = norms(decoder.model) if config.norms else set()
    return whole | ({f"{table_path(decoder.model)}.weight"} if config.embeddings == "full" else set())


def _expect_possible(config: ExtensionConfig, decoder: Decoder) -> None:
    """Refuse what this decoder cannot be trained in."""
    there = {last(name) for name in linear(decoder.model)}
    if strange := sorted({*(config.lora.targets if config.lora else ())} - there):
        raise _senseless(f"LoRA on linear layers of {decoder.name} ({', '.join(sorted(there))})", ", ".join(strange))
    if config.everything and any(hasattr(weight, "__tensor_flatten__") for weight in decoder.model.parameters()):
        raise _senseless("weights in bfloat16 or float32, to train them all", f"quantised ones in {decoder.name}")


def _whole(folder: Path, decoder: Decoder) -> Extension:
    extension = Extension(ExtensionConfig(everything=True), decoder)
    tensors = load_file(folder / WHOLE)
    for key, master in extension.masters.copies.items():
        peft.fill(master, key.replace("/", "."), tensors)
    peft.expect_none(tensors)
    return extension


def _from_peft(raw: dict[str, Any], tensors: dict[str, Tensor], decoder: Decoder) -> Extension:
    """The extension in a PEFT checkpoint.

    Raises:
        KeyError, ValueError, PrereadError: it is of other parts, or of another decoder.
    """
    config = _config(raw, tensors, decoder)
    extension = Extension(config, decoder)
    saved, ends = set(extension.masters.copies), tuple(raw.get("modules_to_save") or ())
    meant = {
        f"{path}.{name}".replace(".", "/")
        for path, module in decoder.model.named_modules()
        if path.endswith(ends)  # as peft matches them
        for name, _ in module.named_parameters()
    }
    if tied(decoder.model):
        if config.embeddings != "frozen" and not raw.get("ensure_weight_tying"):
            raise ValueError("embeddings that come apart from the output head (ensure_weight_tying is off)")
        meant -= {f"{head_path(decoder.model)}.weight".replace(".", "/")}
    if meant != saved:
        raise ValueError(f"modules_to_save {list(ends)}, of which {len(meant ^ saved)} weights do not fit the file")
    _drop_base(tensors, decoder)
    for part in extension._low_rank:
        part.take(tensors)
    taken: dict[nn.Parameter, str] = {}
    for name, master in extension.masters.named().items():
        if master in taken and not torch.equal(tensors[peft.PEFT_PREFIX + name].to(master), master):
            raise ValueError(f"{name} that is tied to {taken[master]} and is not the same")
        peft.fill(master, peft.PEFT_PREFIX + name, tensors)
        taken[master] = name
    peft.expect_none(tensors)
    return extension


def _drop_base(tensors: dict[str, Tensor], decoder: Decoder) -> None:
    """Leave out the decoder's own table, which peft writes beside a low-rank update of it."""
    own = decoder.model.state_dict()
    for name in [name for name in tensors if ".base_layer." in name]:
        weight = own[name.removeprefix(peft.PEFT_PREFIX).replace(".base_layer.", ".")]
        if not torch.equal(tensors.pop(name).to(weight), weight):
            raise ValueError(f"{name} of another decoder")


def _config(raw: dict[str, Any], tensors: dict[str, Tensor], decoder: Decoder) -> ExtensionConfig:
    """What a checkpoint says that it holds."""
    targets, table = raw["target_modules"], table_path(decoder.model)
    plain = {**raw, "modules_to_save": None, "target_modules": []}
    low_rank = False
    if isinstance(targets, str) and targets != NO_TARGETS:
        raise ValueError(f"layers named by a pattern, {targets}")
    lora = peft.shape(plain)
    if targets != NO_TARGETS:
        low_rank = not {table, last(table)}.isdisjoint(targets)
        lora = replace(lora, targets=tuple(name for name in targets if name not in (table, last(table))))
    with_norms = any(peft.PEFT_PREFIX + name in tensors for name in norms(decoder.model))
    full = f"{peft.PEFT_PREFIX}{table}.weight" in tensors
    embeddings: Literal["frozen", "full", "lora"] = "full" if full else "lora" if low_rank else "frozen"
    return ExtensionConfig(None if targets == NO_TARGETS else lora, with_norms, embeddings)


def _senseless(expected: str, got: str) -> UsageError:
    return UsageError(expected, got, "Nothing was attached.", "Correct `extension` in the recipe.")
