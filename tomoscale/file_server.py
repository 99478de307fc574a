"""Files of volumes for a page in a browser of this machine: whole or in ranges of bytes, and nothing else.

The server listens on 127.0.0.1 alone. Other users of the machine reach that too, so every address holds a token.
"""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from tomoscale.json_files import MAX_JSON_BYTES

HOST = "127.0.0.1"
PIECE_BYTES = 2**20
_SAME_BYTES = (
    ("data_type", "bool", "uint8"),
    ("data_type", "int64", "uint64"),
    ("dtype", "|b1", "|u1"),
    ("dtype", "<i8", "<u8"),
)
"""Types of voxels that neuroglancer does not know, by key in version 3 and 2 of Zarr; labels are not negative."""
_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


class FileServer:
    """Files below some folders, for reading, on 127.0.0.1.

    Parameters
    ----------
    roots : list of Path
        Folders; nothing else is served, also not through links.
    origin : str
        Of the page that may read them.
    """

    def __init__(self, roots: list[Path], origin: str) -> None:
        self.roots = [root.resolve() for root in roots]
        self.origin = origin
        self.token = secrets.token_urlsafe(24)
        self._server = ThreadingHTTPServer((HOST, 0), type("Handler", (_Handler,), {"files": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True, name="tomoscale files").start()

    def address(self, number: int) -> str:
        """Address of root `number`."""
        return f"http://{HOST}:{self._server.server_address[1]}/{self.token}/{number}/"

    def find(self, target: str) -> Path | None:
        """File that a request is about; None for whatever is not a file in a root, or comes without the token."""
        empty, *pieces = (unquote(piece) for piece in urlsplit(target).path.split("/"))
        if empty or len(pieces) < 3:
            return None
        token, number, *names = pieces
        if not secrets.compare_digest(token.encode(), self.token.encode()):
            return None
        root = next((r for n, r in enumerate(self.roots) if str(n) == number), None)
        if root is None or any(name in ("", ".", "..") or "/" in name or "\0" in name for name in names):
            return None
        try:
            path = root.joinpath(*names).resolve()
            return path if path.is_relative_to(root) and path.is_file() else None
        except (OSError, ValueError, RuntimeError):  # a name that no file system has, a circle of links
            return None

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One request for a file, or for a range of bytes of it."""

    files: FileServer
    protocol_version = "HTTP/1.1"
    server_version = "tomoscale"
    timeout = 60

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_OPTIONS(self) -> None:
        """Let the page, whose port is another, ask for ranges."""
        self._start(HTTPStatus.NO_CONTENT, {"Access-Control-Allow-Headers": "range", "Access-Control-Max-Age": "3600"})

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: a viewer asks for thousands of chunks."""

    def _answer(self, with_body: bool) -> None:
        path = self.files.find(self.path)
        if path is None:
            self._start(HTTPStatus.NOT_FOUND, {"Content-Length": "0"})
            return
        try:
            file = path.open("rb")
        except OSError:
            self._start(HTTPStatus.FORBIDDEN, {"Content-Length": "0"})
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            if path.name in ("zarr.json", ".zarray") and size <= MAX_JSON_BYTES:
                content = with_known_type(file.read())
                self._send(io.BytesIO(content), len(content), with_body)
            else:
                self._send(file, size, with_body)

    def _send(self, file: BinaryIO, size: int, with_body: bool) -> None:
        asked = self.headers.get("Range")
        span = byte_range(asked, size) if asked else range(size)
        if span is None:
            unsatisfiable = {"Content-Length": "0", "Content-Range": f"bytes */{size}"}
            self._start(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, unsatisfiable)
            return
        headers = {"Content-Length": str(len(span)), "Accept-Ranges": "bytes"}
        if asked:
            headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{size}"
        self._start(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK, headers)
        file.seek(span.start)
        left = len(span) if with_body else 0
        while left and (piece := file.read(min(left, PIECE_BYTES))):
            self.wfile.write(piece)
            left -= len(piece)

    def _start(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Access-Control-Allow-Origin", self.files.origin)
        self.send_header("Access-Control-Expose-Headers", "content-range, content-length")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def with_known_type(text: bytes) -> bytes:
    """Metadata of an array with a type that neuroglancer knows and that has the same bytes, where there is one.

    Examples
    --------
    >>> with_known_type(b'{"data_type": "bool", "fill_value": false}')
    b'{"data_type": "uint8", "fill_value": 0}'
    """
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(metadata, dict):
        return text
    for key, stored, known in _SAME_BYTES:
        if metadata.get(key) == stored:
            fill = int(metadata["fill_value"]) if isinstance(metadata.get("fill_value"), int) else 0
            return json.dumps({**metadata, key: known, "fill_value": fill}).encode()
    return text


def byte_range(asked: str, size: int) -> range | None:
    """Bytes of a file of `size` that a header asks for; None where it asks for none of them, or not in one piece.

    Examples
    --------
    >>> byte_range("bytes=2-5", 100), byte_range("bytes=-8", 100), byte_range("bytes=90-", 95)
    (range(2, 6), range(92, 100), range(90, 95))
    """
    found = _RANGE.fullmatch(asked.strip())
    if found is None or found[0] == "bytes=-" or len(asked) > 64:
        return None
    first, last = found[1], found[2]
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    return range(start, stop) if start < stop else None
