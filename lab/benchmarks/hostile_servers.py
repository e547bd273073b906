"""Web servers that serve a preset as an attacker would: without end, for hours, or from elsewhere."""

from __future__ import annotations

import contextlib
import http.server
import os
import pathlib
import threading
from collections.abc import Callable, Iterator
from unittest import mock

from glow_tf import presets
from glow_tf.presets import remote

SETTINGS = (presets.find("digits") / "config.json").read_bytes()
BLOCK = bytes(2**20)


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        with contextlib.suppress(OSError):  # who asked has gone
            self.server.answer(self)

    def log_message(self, *_: object) -> None:
        pass


def _begin(asked: http.server.BaseHTTPRequestHandler, size: int | None = None) -> None:
    asked.send_response(200)
    if size is not None:
        asked.send_header("Content-Length", str(size))
    asked.end_headers()


def _drip(asked: http.server.BaseHTTPRequestHandler, sign: bytes) -> None:
    """Sends a sign every tenth of a second until the server is closed."""
    while not asked.server.closed.wait(0.1):
        asked.wfile.write(sign)


def _without_end(asked: http.server.BaseHTTPRequestHandler) -> None:
    _begin(asked)
    for _ in range(3 * 1024):
        asked.wfile.write(BLOCK)


def _slow(asked: http.server.BaseHTTPRequestHandler) -> None:
    _begin(asked, 100_000)
    _drip(asked, b"[")


def _slow_headers(asked: http.server.BaseHTTPRequestHandler) -> None:
    asked.wfile.write(b"HTTP/1.0 200 OK\r\n")
    _drip(asked, b"a: b\r\n")


def _slow_chunk(asked: http.server.BaseHTTPRequestHandler) -> None:
    asked.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    _drip(asked, b"0")


def _weights(then: Callable) -> Callable:
    def answer(asked: http.server.BaseHTTPRequestHandler) -> None:
        if asked.path.endswith("config.json"):
            _begin(asked, len(SETTINGS))
            asked.wfile.write(SETTINGS)
        else:
            then(asked)

    return answer


def _to(place: str) -> Callable:
    def answer(asked: http.server.BaseHTTPRequestHandler) -> None:
        asked.send_response(302)
        asked.send_header("Location", place)
        asked.end_headers()

    return answer


def _claiming(size: int) -> Callable:
    return lambda asked: _begin(asked, size)


def _with_escapes(asked: http.server.BaseHTTPRequestHandler) -> None:
    asked.wfile.write(b"HTTP/1.0 404 \x1b[2Jgone\r\n\r\n")


# What a server does → how it answers, and what the refusal says.
SERVERS: dict[str, tuple[Callable, str]] = {
    "settings without end": (_without_end, "may have at most 4194304 bytes"),
    "settings of 3 GB": (_claiming(3 * 2**30), "may have at most 4194304 bytes"),
    "weights without end": (_weights(_without_end), "weights.h5: it may have at most"),
    "weights of 1 TB": (_weights(_claiming(2**40)), "weights.h5: it may have at most"),
    "settings cut off": (_claiming(1000), "ended after 0 of 1000 bytes"),
    "slow settings": (_slow, "must come within"),
    "slow weights": (_weights(_slow), "must come within"),
    "slow headers": (_slow_headers, "must come within"),
    "a slow chunk": (_slow_chunk, "must come within"),
    "a redirect to FTP": (_to("ftp://127.0.0.1/x"), "a redirect must lead to"),
    "a redirect to a file": (_to("file:///etc/passwd"), "not allowed"),
    "a redirect to itself": (_to("/some/flow/config.json"), "infinite loop"),
    "escapes": (_with_escapes, r"404 \\x1b\[2Jgone"),
}


@contextlib.contextmanager
def serving(kind: str) -> Iterator[str]:
    """Within the context, a server of `SERVERS` answers on the loopback; gives a preset's address on it."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    server.answer, server.closed, server.daemon_threads = SERVERS[kind][0], threading.Event(), True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/some/flow"
    finally:
        server.closed.set()
        server.shutdown()
        server.server_close()


def fetch(kind: str, folder: pathlib.Path) -> None:
    """Fetches a preset from a server of a kind, which may not be slow for long; it is kept in a folder."""
    with (
        mock.patch.object(remote, "PATIENCE", 0.3 if "slow" in kind else remote.PATIENCE),
        mock.patch.dict(os.environ, XDG_CACHE_HOME=str(folder)),
        serving(kind) as address,
    ):
        presets.find(address)
