"""The methods, by name: the one table that names them all."""

from __future__ import annotations

from preread.methods.lloco.method import Lloco
from preread.methods.text import Text

METHODS = {Text.name: Text, Lloco.name: Lloco}
"""Every method by the name that users type. To delete one, delete its folder and its entry."""
