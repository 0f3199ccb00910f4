"""`longlora`: a window extended by cheap fine-tuning with shifted sparse attention (LongLoRA, arXiv 2309.12307).

`attach` and `detach` put the attention into any training script of transformers; everything else is behind the door.
"""

from preread.methods.longlora.attaching import attach, detach

__all__ = ["attach", "detach"]
