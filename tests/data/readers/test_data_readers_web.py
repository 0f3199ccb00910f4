"""A page at an address is a document like its file; what does not answer, or not with a page, is one line."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from preread.core.errors import Interrupted, UnreadableDocument
from preread.data import ingest
from preread.data.ingest import read
from preread.data.readers import web

HTML = (
    b"<html><head><title>Harbour log</title></head><body><h1>Ships</h1><p>The schooner came at nine.</p></body></html>"
)


class Site(BaseHTTPRequestHandler):
    """Answers from `pages`: (status, headers, body), or a function that is given the handler."""

    pages: dict = {}  # noqa: RUF012  # every test fills its own

    def do_GET(self):
        page = self.pages.get(self.path, (404, {}, b"gone"))
        if callable(page):
            page(self)
            return
        status, headers, body = page
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def site(monkeypatch):
    """`site(path, status, headers, body)` serves a page and gives its address."""
    pages: dict = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Pages", (Site,), {"pages": pages}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def serve(path, answer):
        pages[path] = answer
        return f"http://127.0.0.1:{server.server_port}{path}"

    yield serve
    server.shutdown()
    thread.join()
    server.server_close()


def page(body, kind="text/html", status=200, **headers):
    return status, {"Content-Type": kind, **headers}, body


def test_a_page_is_a_document_whose_source_is_its_address(site, sections):
    address = site("/log", page(HTML))
    document = read(address)
    assert (document.source, document.title) == (address, "Harbour log")
    assert document.text == "Ships\n\nThe schooner came at nine."
    assert sections(document) == [("Ships", "Ships")]


def test_the_declared_type_decides_who_reads(site, pdf):
    assert [mark.kind for mark in read(site("/a.html", page(pdf([["One."]]), "application/pdf"))).marks] == ["page"]
    assert read(site("/b", page(b"<p>kept", "text/plain"))).text == "<p>kept"
    assert read(site("/notes.md", page(b"# Head\n\nx", "text/plain"))).title == "Head"
    assert read(site("/c", page(pdf([["Two."]]), "application/octet-stream"))).text == "Two."
    assert read(site("/d", (200, {}, HTML))).title == "Harbour log"
    with pytest.raises(UnreadableDocument, match=r"got image/png\..*Download it"):
        read(site("/e", page(b"\x89PNG", "image/png")))
    with pytest.raises(UnreadableDocument, match="got a PNG image"):
        read(site("/f", page(b"\x89PNG", "application/octet-stream")))


def test_the_declared_encoding_is_used_and_the_name_comes_from_the_address(site):
    address = site("/gr%C3%B6%C3%9Fe.html?a=b%20c", page("<p>Größe</p>".encode("cp1252"), "text/html; charset=cp1252"))
    document = read(address)
    assert (document.title, document.text) == ("größe", "Größe")
    assert read(address.replace("gr%C3%B6%C3%9Fe", "größe").replace("%20", " ")).text == "Größe"


def test_redirects_are_followed_within_the_web_only(site, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    there = site("/there", page(HTML))
    assert read(site("/moved", (302, {"Location": there}, b""))).title == "Harbour log"
    for target in (f"file://{secret}", "ftp://127.0.0.1/x", "data:text/plain,x"):
        with pytest.raises(UnreadableDocument, match=r"not allowed|unknown url type"):
            read(site("/out", (302, {"Location": target}, b"")))
    address = site("/round", (302, {"Location": "/round"}, b""))
    with pytest.raises(UnreadableDocument, match="refusal 302"):
        read(address)


@pytest.mark.parametrize(
    ("status", "remedy"), [(404, "Check the address"), (403, "save it"), (500, "Check the address")]
)
def test_a_refusal_is_told_with_its_number(site, status, remedy):
    with pytest.raises(UnreadableDocument, match=rf"refusal {status} .*{remedy}"):
        read(site("/no", page(b"x", status=status)))


def test_no_network_is_one_line():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"http://127.0.0.1:{port}/x", "https://host.invalid/x"):
        with pytest.raises(UnreadableDocument, match=r"no answer \(.*can be added without one"):
            read(address)


@pytest.mark.parametrize("address", ["ftp://host/x", "file:///etc/passwd", "https://", "http://[bad/x", "data://x"])
def test_other_addresses_are_refused_before_anything_is_asked(address, monkeypatch):
    monkeypatch.setattr(ingest, "run", None)
    with pytest.raises(UnreadableDocument, match="address"):
        read(address)


def test_a_page_larger_than_the_limit_is_refused(site):
    def endless(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.end_headers()
        try:
            for _ in range(2 * web.FETCHED_MOST // 1_000_000):
                handler.wfile.write(b"<p>words</p>" * 83_000)
        except OSError:
            pass

    with pytest.raises(UnreadableDocument, match="at most 50 MB"):
        read(site("/endless", endless))


def test_a_page_that_never_ends_is_given_up_and_can_be_stopped(site, monkeypatch):
    """The server says a word often enough never to be silent: only the time for the whole page ends it."""
    over = threading.Event()

    def dripping(handler):
        handler.send_response(200)
        handler.end_headers()
        while not over.wait(0.05):
            try:
                handler.wfile.write(b"x")
            except OSError:
                return

    address = site("/drip", dripping)
    monkeypatch.setattr(ingest, "FETCHING_S", 0.7)
    start = time.monotonic()
    with pytest.raises(UnreadableDocument, match="takes longer"):
        read(address)
    assert time.monotonic() - start < 5
    monkeypatch.setattr(ingest, "FETCHING_S", 60)
    asked = threading.Event()
    threading.Timer(0.3, asked.set).start()
    with pytest.raises(Interrupted):
        read(address, cancelled=asked.is_set)
    assert time.monotonic() - start < 10
    over.set()
