"""A server on the loopback address that gives the files of a folder as an object store does, and fails when asked to."""

from __future__ import annotations

import re
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Failure = Callable[[str, int], int | str | None]
"""Of a path and how often it was asked for: a status to answer with, "drop" to end the connection, or None."""


class Store(ThreadingHTTPServer):
    """The server; `asked` is every path that was asked for, in order."""

    def __init__(self, folder: Path, failure: Failure) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.failure = folder, failure
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    server: Store

    def do_HEAD(self) -> None:
        self.answer(200, b"", {"x-amz-bucket-region": "us-east-1"})

    def do_GET(self) -> None:
        store = self.server
        store.asked.append(self.path)
        wanted = store.failure(self.path, store.asked.count(self.path))
        file = store.folder / self.path.lstrip("/").partition("?")[0]
        if wanted == "drop":
            self.close_connection = True
        elif isinstance(wanted, int):
            code = {403: "AccessDenied"}.get(wanted, "SlowDown")
            self.answer(wanted, f"<Error><Code>{code}</Code></Error>".encode())
        elif not file.is_file():
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self.give(file.read_bytes())

    def give(self, content: bytes) -> None:
        """Answer with a file, or with the bytes of it that were asked for."""
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        headers, n = {"ETag": f'"{zlib.crc32(content):x}"'}, len(content)
        if asked is None:
            self.answer(200, content, headers)
            return
        first = int(asked[1]) if asked[1] else n - int(asked[2])
        last = min(int(asked[2]), n - 1) if asked[1] and asked[2] else n - 1
        self.answer(206, content[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{n}"})

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def object_store(folder: Path, failure: Failure = lambda path, times: None) -> Iterator[tuple[str, list[str]]]:
    """Serve ``folder/BUCKET/KEY``; gives the address and the list of what is asked for."""
    server = Store(folder, failure)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
