"""Files of volumes for a page in a browser of this machine: whole or in ranges of bytes, and nothing else.

The server listens on 127.0.0.1 alone. Other users of the machine reach that too, so every address holds a token. Objects
of a volume in a bucket are fetched with the credentials of this process and passed on piece by piece: the page learns
neither the credentials nor where the bucket is.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from tomoscale.bucket_path import BucketPath, Part
from tomoscale.json_files import bounded_content
from tomoscale.places import Place

HOST = "127.0.0.1"
PIECE_BYTES = 2**20
MAX_KEY_BYTES = 1024
"""No object store has longer names."""
_SAME_BYTES = (
    ("data_type", "bool", "uint8"),
    ("data_type", "int64", "uint64"),
    ("dtype", "|b1", "|u1"),
    ("dtype", "<i8", "<u8"),
)
"""Types of voxels that neuroglancer does not know, by key in version 3 and 2 of Zarr; labels are not negative."""
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class FileServer:
    """Files below some folders, for reading, on 127.0.0.1.

    Parameters
    ----------
    roots : list of Path or BucketPath
        Folders; nothing else is served, also not through links.
    origin : str
        Of the page that may read them.
    """

    def __init__(self, roots: list[Place], origin: str) -> None:
        self.roots: list[Place] = [root.resolve() for root in roots]
        self.origin = origin
        self.token = secrets.token_urlsafe(24)
        self._server = _Server((HOST, 0), type("Handler", (_Handler,), {"files": self}))
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True, name="tomoscale files").start()

    def address(self, number: int) -> str:
        """Address of root `number`."""
        return f"http://{HOST}:{self._server.server_address[1]}/{self.token}/{number}/"

    def find(self, target: str) -> Place | None:
        """File that a request is about; None for whatever is not a file in a root, or comes without the token.

        Whether there is such an object in a bucket, the bucket says when it is asked for the content.
        """
        empty, *pieces = (unquote(piece) for piece in urlsplit(target).path.split("/"))
        if empty or len(pieces) < 3:
            return None
        token, number, *names = pieces
        if not secrets.compare_digest(token.encode(), self.token.encode()):
            return None
        root = next((r for n, r in enumerate(self.roots) if str(n) == number), None)
        if root is None or any(name in ("", ".", "..") or "/" in name or "\0" in name for name in names):
            return None
        if isinstance(root, BucketPath):
            wanted = root / "/".join(names)
            return wanted if len(wanted.key.encode()) <= MAX_KEY_BYTES else None
        try:
            path = root.joinpath(*names).resolve()
            return path if path.is_relative_to(root) and path.is_file() else None
        except (OSError, ValueError, RuntimeError):  # a name that no file system has, a circle of links
            return None

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """Answers each request in a thread of its own."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a page that went away in the middle of an answer: it does when one looks elsewhere."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


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
        found, asked = self.files.find(self.path), self.headers.get("Range")
        if found is None:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        try:
            with opened(found, byte_slice(asked) if asked else slice(None), with_body) as part:
                self._send(part, asked is not None)
        except (FileNotFoundError, ValueError):  # or a name that no object has
            self._refuse(HTTPStatus.NOT_FOUND)
        except PermissionError:
            self._refuse(HTTPStatus.FORBIDDEN)
        except OSError:
            self._refuse(HTTPStatus.BAD_GATEWAY)

    def _send(self, part: Part, in_part: bool) -> None:
        span = part.span
        if in_part and not span:
            self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {"Content-Range": f"bytes */{part.size}"})
            return
        headers = {"Content-Length": str(len(span)), "Accept-Ranges": "bytes"}
        if in_part:
            headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{part.size}"
        left = len(span)
        try:
            self._start(HTTPStatus.PARTIAL_CONTENT if in_part else HTTPStatus.OK, headers)
            for piece in part.pieces:
                self.wfile.write(piece)
                left -= len(piece)
        except OSError:
            pass  # the page does not want it any more, or storage failed on the way
        if left and self.command != "HEAD":
            self.close_connection = True  # which tells the page that the body is not whole

    def _refuse(self, status: HTTPStatus, headers: dict[str, str] | None = None) -> None:
        self._start(status, {"Content-Length": "0", **(headers or {})})

    def _start(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Access-Control-Allow-Origin", self.files.origin)
        self.send_header("Access-Control-Expose-Headers", "content-range, content-length")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def opened(found: Place, wanted: slice, with_body: bool = True) -> Iterator[Part]:
    """Bytes of a file or an object for as long as they are sent; no more than a piece of them is held, or one JSON text."""
    if found.name in ("zarr.json", ".zarray"):
        size, text = bounded_content(found)
        if text is not None:
            text = with_known_type(text)
            span = range(len(text))[wanted]
            yield Part(len(text), span, iter([text[span.start : span.stop]] if with_body else []))
            return
    if isinstance(found, BucketPath):
        yield found.read_part(wanted, PIECE_BYTES) if with_body else found.part(wanted)
        return
    with found.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        span = range(size)[wanted]
        file.seek(span.start)
        lengths = (min(PIECE_BYTES, span.stop - at) for at in span[::PIECE_BYTES]) if with_body else ()
        yield Part(size, span, map(file.read, lengths))


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


def byte_slice(asked: str) -> slice:
    """Bytes of a file that a header asks for, none of them where it makes no sense or does not ask for them in one piece.

    Examples
    --------
    >>> range(100)[byte_slice("bytes=2-5")], range(100)[byte_slice("bytes=-8")], range(95)[byte_slice("bytes=90-")]
    (range(2, 6), range(92, 100), range(90, 95))
    """
    found = _RANGE.fullmatch(asked.strip())
    first, last = (found[1], found[2]) if found else ("", "")
    if first:
        return slice(int(first), int(last) + 1 if last else None)
    return slice(-int(last), None) if last.strip("0") else slice(0, 0)
