"""What the layers of a decoder attend to, as its config says."""

from __future__ import annotations

from transformers import PreTrainedConfig


def layer_kinds(config: PreTrainedConfig) -> set[str]:
    """Names of transformers' kinds; where a config names a window and no layers, all of them have it."""
    text = config.get_text_config()
    alike = "sliding_attention" if getattr(text, "sliding_window", None) else "full_attention"
    return set(getattr(text, "layer_types", None) or [alike])
