"""The parts of a decoder's model that an extension changes, by name."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel


def linear(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Every linear layer but the output head, quantised or not."""
    head = model.get_output_embeddings()
    modules = model.named_modules()
    return {name: module for name, module in modules if hasattr(module, "in_features") and module is not head}


def norms(model: PreTrainedModel) -> set[str]:
    """Names of the parameters of every norm, those inside the attention and the final one too."""
    return {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if "Norm" in type(module).__name__
        for name, _ in module.named_parameters(recurse=False)
    }


def table_path(model: PreTrainedModel) -> str:
    """Name of the embedding table's module."""
    return _path(model, model.get_input_embeddings())


def head_path(model: PreTrainedModel) -> str:
    """Name of the output head's module."""
    return _path(model, model.get_output_embeddings())


def tied(model: PreTrainedModel) -> bool:
    """Whether the output head's weights are the embedding table's."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _path(model: PreTrainedModel, wanted: nn.Module) -> str:
    name: str = next(name for name, module in model.named_modules() if module is wanted)
    return name


def last(name: str) -> str:
    """The last part of a name with dots."""
    return name.rpartition(".")[2]
