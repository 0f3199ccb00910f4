"""Web addresses: one page, fetched within bounds over HTTP or HTTPS alone."""

from __future__ import annotations

import http.client
from email.message import Message
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib import error, request
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from preread.data.readers.kinds import kind_of
from preread.data.readers.reading import Refused, megabytes

FETCHED_MOST = 50_000_000
"""Bytes of the largest page that is fetched."""
SILENCE_S = 15.0
"""Seconds without a word from the server after which it is given up."""
OFFICE = "application/vnd.openxmlformats-officedocument"
SUFFIX_OF = {
    "text/html": ".html",
    "application/xhtml+xml": ".html",
    "text/plain": ".txt",
    "text/markdown": ".md",
    "application/pdf": ".pdf",
    "application/epub+zip": ".epub",
    f"{OFFICE}.wordprocessingml.document": ".docx",
    f"{OFFICE}.presentationml.presentation": ".pptx",
    "multipart/related": ".mhtml",
}
UNTOLD = ("application/octet-stream", "binary/octet-stream", "")
SAVE = "Open it in a browser, save it and add the file."


class Fetched(NamedTuple):
    """What came from an address: the bytes, the suffix of its kind, and its declared encoding or an empty string."""

    raw: bytes
    suffix: str
    charset: str


def fetch(address: str) -> Fetched:
    """What stands at an address beginning `http://` or `https://`.

    Raises:
        Refused: no answer, an answer that is no page, too large, or of a kind that is not read.
    """
    opener = request.OpenerDirector()  # not `build_opener`, which would open FTP and files as well, a redirect's too
    for handler in (
        request.ProxyHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPRedirectHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPErrorProcessor,
        request.UnknownHandler,
    ):
        opener.add_handler(handler())
    agent = {"User-Agent": f"preread/{version('preread')}", "Accept": "text/html, application/pdf, text/*, */*;q=0.5"}
    try:
        with opener.open(request.Request(_quoted(address), headers=agent), timeout=SILENCE_S) as answer:  # noqa: S310
            raw = answer.read(FETCHED_MOST + 1)
            headers, place = answer.headers, answer.url
    except error.HTTPError as refusal:
        remedy = SAVE if refusal.code in (401, 403, 429, 451) else "Check the address."
        raise Refused("a web page", f"the server's refusal {refusal.code} ({refusal.reason})", remedy) from refusal
    except (OSError, http.client.HTTPException, ValueError) as failure:
        reason = str(getattr(failure, "reason", "") or failure or type(failure).__name__)
        remedy = "Check the address and the network; a page saved as a file can be added without one."
        raise Refused("a web page", f"no answer ({reason})", remedy) from failure
    if len(raw) > FETCHED_MOST:
        remedy = "Download it and add the file."
        raise Refused(f"a web page of at most {megabytes(FETCHED_MOST)}", "a larger one", remedy)
    return Fetched(raw, _suffix(headers, place, raw), headers.get_content_charset() or "")


def _quoted(address: str) -> str:
    """The address as it goes over the wire: its host in ASCII, and no space or letter beyond it."""
    parts = urlsplit(address)
    host = parts.netloc.encode("idna").decode() if not parts.netloc.isascii() else parts.netloc
    safe = "/%:=&?~+!$,;'@()*[]"
    return urlunsplit((parts.scheme, host, quote(parts.path, safe) or "/", quote(parts.query, safe), ""))


def _suffix(headers: Message, place: str, raw: bytes) -> str:
    """The reader that fits: by the content's declared type, else by the address, else by the content."""
    kind = headers.get_content_type() if headers.get("Content-Type") else ""
    own = PurePosixPath(unquote(urlsplit(place).path)).suffix.lower()
    if kind == "text/plain" and own in (".md", ".markdown", ".rst"):
        return own
    if kind in SUFFIX_OF:
        return SUFFIX_OF[kind]
    found: Any = kind_of(raw) if kind in UNTOLD else None
    if found is None or not found.suffix:
        what = found.what if found else kind or "content of an unknown kind"
        raise Refused("a page of HTML, PDF or text", what, "Download it and convert it to PDF, HTML or plain text.")
    return str(found.suffix)
