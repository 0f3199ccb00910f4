"""preread: let a language model read long documents once, ahead of time, and ask a thousand times, cheaply.

The public names, loaded when they are first used, so that importing the package is quick.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from preread.collection.lessons import StudyConfig
    from preread.collection.settings import Settings
    from preread.core.answer import Answer, Citation, Usage
    from preread.core.errors import PrereadError
    from preread.core.types import Document, Passage, Sampling, Turn
    from preread.library import Collection, Library
    from preread.models.loading import load

# transformers imports torchao wherever it is installed, and torchao then names each of its GPU kernels that this
# machine does not have: nothing that a user of ours could act on.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

_WHERE = {
    "Answer": "preread.core.answer",
    "Citation": "preread.core.answer",
    "Collection": "preread.library",
    "Document": "preread.core.types",
    "Library": "preread.library",
    "Passage": "preread.core.types",
    "PrereadError": "preread.core.errors",
    "Sampling": "preread.core.types",
    "Settings": "preread.collection.settings",
    "StudyConfig": "preread.collection.lessons",
    "Turn": "preread.core.types",
    "Usage": "preread.core.answer",
    "load": "preread.models.loading",
}
__all__ = [
    "Answer",
    "Citation",
    "Collection",
    "Document",
    "Library",
    "Passage",
    "PrereadError",
    "Sampling",
    "Settings",
    "StudyConfig",
    "Turn",
    "Usage",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'preread' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
