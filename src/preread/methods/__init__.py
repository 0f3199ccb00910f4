"""The methods, by name: the one table that names them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preread.methods.cepe.method import Cepe
from preread.methods.kv.method import Kv
from preread.methods.lloco.method import Lloco
from preread.methods.longlora.method import LongLora
from preread.methods.text import Text

METHODS: Mapping[str, type[Any]] = {method.name: method for method in (Text, Kv, Lloco, LongLora, Cepe)}
"""Every method by the name that users type. To delete one, delete its folder and its entry."""
