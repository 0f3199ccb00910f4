"""HTML pages that need nothing else: no script, nothing fetched, every text escaped."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

ASSETS = Path(__file__).parent / "assets"


def standalone(name: str, images: bool = False, **values: Any) -> str:
    """A page of `assets/NAME.html` and the styles `page.css` and `NAME.css`.

    Its policy allows the style that it carries, by hash, and nothing else.

    Args:
        name: of the template, which extends `page.html`.
        images: whether it carries pictures, as `data:` addresses.
        values: what the template names.
    """
    style = "".join((ASSETS / f"{part}.css").read_text(encoding="utf-8") for part in ("page", name))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    policy += "; img-src data:" if images else ""
    return _environment().get_template(f"{name}.html").render(policy=policy, style=style, **values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
