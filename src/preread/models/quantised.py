"""Fewer bits a weight, by torchao: the decoder's linear layers, behind the same modules and names.

Embeddings and output head keep their precision, so that tied weights stay one tensor; norms do too. The weights stay
`nn.Linear` with a tensor that unpacks itself, through which gradients pass: LoRA, compressing and training see no
difference. Weights are quantised on the CPU, whatever the device is, so that they are the same numbers everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn
from transformers import PreTrainedModel

from preread.core.errors import UnsupportedModel, UsageError

BLOCK = 64
"""Weights of one scale in 4 bits, as QLoRA has them (arXiv 2305.14314)."""


def quantise(model: PreTrainedModel, dtype: str) -> str:
    """Quantise the linear layers in place, all but the output head.

    Args:
        model: in bfloat16, on the CPU.
        dtype: `int8` (whole numbers, one scale a row) or `int4` (4 bits: NormalFloat steps, one scale for 64 weights).

    Returns:
        A note that says what the weights are.

    Raises:
        UsageError: torchao is not installed.
        UnsupportedModel: a layer's weights do not divide into blocks.
    """
    pack, note = _packing(dtype)
    head = model.get_output_embeddings()
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and layer is not head:
            if layer.weight.numel() % BLOCK:
                raise UnsupportedModel(
                    expected=f"layers of a multiple of {BLOCK} weights, to quantise them",
                    got=f"{name} of {layer.weight.numel()}",
                    consequence="No model was loaded.",
                    remedy="Leave dtype out for bfloat16.",
                )
            pack(layer)
    return note


def _packing(dtype: str) -> tuple[Callable[[nn.Linear], None], str]:
    """What quantises one layer in place, and the note."""
    try:
        from torchao.quantization import Int8WeightOnlyConfig, NF4Tensor, quantize_
    except ImportError as error:
        raise UsageError(
            expected=f"torchao, which dtype {dtype} needs",
            got=str(error),
            consequence="No model was loaded.",
            remedy='Install it with pip install "preread[quant]", or leave dtype out for bfloat16.',
        ) from error

    def whole_numbers(layer: nn.Linear) -> None:
        quantize_(layer, Int8WeightOnlyConfig(set_inductor_config=False), filter_fn=lambda module, _: module is layer)

    def normal_floats(layer: nn.Linear) -> None:
        weight = layer.weight.data
        scales = math.gcd(weight.numel() // BLOCK, 256)  # the scales are quantised too, up to 256 together
        layer.weight = nn.Parameter(NF4Tensor.from_tensor(weight, BLOCK, scales), requires_grad=False)

    if dtype == "int8":
        return whole_numbers, "weights quantised to int8"
    return normal_floats, "weights quantised to 4 bits (NF4)"
