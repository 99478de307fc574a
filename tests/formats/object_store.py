"""A server on the loopback address that keeps the files of a folder as an object store does, and fails when asked to."""

from __future__ import annotations

import calendar
import hashlib
import hmac
import os
import re
import socket
import struct
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

Failure = Callable[[str, str, int], int | str | float | None]
"""Of a method, a path and how often it was asked for: a status to answer with, or one with its name such as "404 NoSuchBucket",
"drop" to end the connection, "reset" to end it as one that was broken, "lose" to do what was asked and end the connection, seconds
(a float) to answer late, or None."""

Conditions = Literal["kept", "bare", "no If-None-Match", "no If-Match"]
"""Of a PUT: kept; kept where ETags are named without quotes, as by gateways of Ceph; or one of them not known."""

PAGE = 20
"""Objects of one answer to a question for a list."""


class Store(ThreadingHTTPServer):
    """The server; `asked` is every method and path that was asked for, in order, `names` whose keys requests were signed with."""

    daemon_threads = True
    request_queue_size = 128  # of more who connect at once than wait here, some are let wait for a minute
    secret = ""
    """With which requests must be signed; empty where any will do."""
    clock_seconds = 0.0
    """By which its clock is ahead."""

    def __init__(self, folder: Path, failure: Failure, conditions: Conditions) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.failure, self.conditions = folder, failure, conditions
        self.asked: list[tuple[str, str]] = []
        self.names: set[str] = set()
        self.counts = Counter[tuple[str, str]]()
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that went away."""


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and content are sent apart, and a client waits 40 ms between them else
    server: Store
    lost = False

    def do(self) -> None:
        """Answer, or fail as asked to."""
        store = self.server
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self.file = store.folder / unquote(parts.path).lstrip("/")
        self.query = parse_qs(parts.query, keep_blank_values=True)
        with store.lock:
            store.asked.append((self.command, self.path))
            store.counts[self.command, self.path] += 1
            store.names.update(re.findall(r"Credential=([^/]*)/", self.headers.get("Authorization", "")))
            times = store.counts[self.command, self.path]
        wanted = self.refused() or store.failure(self.command, self.path, times)
        if isinstance(wanted, float):
            time.sleep(wanted)
        self.lost = wanted == "lose"
        if wanted in ("drop", "reset"):
            if wanted == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            self.close_connection = True
        elif isinstance(wanted, int) or str(wanted)[:3].isdigit():
            status, _, name = str(wanted).partition(" ")
            code = name or {"403": "AccessDenied"}.get(status, "SlowDown")
            self.answer(int(status), f"<Error><Code>{code}</Code></Error>".encode())
        else:
            getattr(self, f"on_{self.command.lower()}")()

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = do

    def refused(self) -> str | None:
        """Why a signed request is not taken."""
        moment = self.headers.get("x-amz-date")
        if moment is None:
            return None
        signed = calendar.timegm(time.strptime(moment, "%Y%m%dT%H%M%SZ"))
        if self.server.clock_seconds and abs(signed - time.time() - self.server.clock_seconds) > 15 * 60:
            return "403 RequestTimeTooSkewed"
        if self.server.secret and signature(self, self.server.secret) not in self.headers["Authorization"]:
            return "403 SignatureDoesNotMatch"
        return None

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Time of the head of an answer."""
        return super().date_time_string((timestamp or time.time()) + self.server.clock_seconds)

    def on_head(self) -> None:
        if len(self.path.strip("/").split("/")) == 1:
            self.answer(200, b"", {"x-amz-bucket-region": "us-east-1"})
        elif self.there():
            wanted = self.headers.get("If-Match")
            status = 412 if wanted and wanted != etag(self.file) else 200
            self.answer(status, self.file.read_bytes(), self.described())

    def on_get(self) -> None:
        if "list-type" in self.query:
            self.listing()
        elif self.there():
            self.give(self.file.read_bytes())

    def on_put(self) -> None:
        conditions = self.server.conditions
        wanted = None if conditions == "no If-Match" else self.headers.get("If-Match")
        new = conditions != "no If-None-Match" and self.headers.get("If-None-Match") == "*"
        with self.server.lock:
            if new and self.file.exists():
                status = 412
            elif wanted and not self.file.exists():
                status = 404
            elif wanted and wanted != (etag(self.file).strip('"') if conditions == "bare" else etag(self.file)):
                status = 412
            else:
                status = 200
                self.file.parent.mkdir(parents=True, exist_ok=True)
                draft = self.server.folder / f".{uuid.uuid4().hex}"
                draft.write_bytes(self.body)
                draft.replace(self.file)
            headers = {"ETag": etag(self.file)} if status == 200 else {}
        code = {404: b"NoSuchKey", 412: b"PreconditionFailed"}.get(status)
        self.answer(status, b"<Error><Code>" + code + b"</Code></Error>" if code else b"", headers)

    def on_delete(self) -> None:
        self.file.unlink(missing_ok=True)
        self.answer(204, b"")

    def on_post(self) -> None:
        keys = re.findall(r"<Key>(.*?)</Key>", self.body.decode())
        for key in map(unescape, keys):
            (self.file / key).unlink(missing_ok=True)
        said = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self.answer(200, f"<DeleteResult>{said}</DeleteResult>".encode())

    def listing(self) -> None:
        prefix, delimiter = self.query.get("prefix", [""])[0], self.query.get("delimiter", [""])[0]
        after = self.query.get("continuation-token", self.query.get("start-after", [""]))[0]
        found: dict[str, str] = {}
        for path in self.file.rglob("*"):
            key = path.relative_to(self.file).as_posix()
            if not path.is_file() or not key.startswith(prefix):
                continue
            inside = key[len(prefix) :]
            if delimiter and delimiter in inside:
                folder = prefix + inside.split(delimiter)[0] + delimiter
                found[folder] = f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
            else:
                written = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(path.stat().st_mtime))
                found[key] = (
                    f"<Contents><Key>{escape(key)}</Key><LastModified>{written}</LastModified>"
                    f"<Size>{path.stat().st_size}</Size><ETag>{escape(etag(path))}</ETag></Contents>"
                )
        keys = sorted(key for key in found if key > after)
        more = f"<NextContinuationToken>{escape(keys[PAGE - 1])}</NextContinuationToken>" if len(keys) > PAGE else ""
        entries = "".join(found[key] for key in keys[:PAGE])
        self.answer(200, f"<ListBucketResult>{entries}{more}</ListBucketResult>".encode())

    def there(self) -> bool:
        if not self.file.is_file():
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        return self.file.is_file()

    def described(self) -> dict[str, str]:
        return {"ETag": etag(self.file), "Last-Modified": formatdate(self.file.stat().st_mtime, usegmt=True)}

    def give(self, content: bytes) -> None:
        """Answer with a file, or with the bytes of it that were asked for."""
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        headers, n = self.described(), len(content)
        if asked is None:
            self.answer(200, content, headers)
            return
        first = int(asked[1]) if asked[1] else max(0, n - int(asked[2]))
        last = min(int(asked[2]), n - 1) if asked[1] and asked[2] else n - 1
        if first >= n:
            self.answer(416, b"<Error><Code>InvalidRange</Code></Error>")
            return
        self.answer(206, content[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{n}"})

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        """Send an answer, unless it is to be lost."""
        if self.lost:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def signature(asked: Handler, secret: str) -> str:
    """What the head of a request must hold that was signed with a secret (AWS Signature Version 4)."""
    said = asked.headers["Authorization"]
    scope = re.search(r"Credential=[^/]*/([^, ]*)", said)[1]
    names = re.search(r"SignedHeaders=([^, ]*)", said)[1]
    path, _, query = asked.path.partition("?")
    headers = "".join(f"{name}:{' '.join(asked.headers[name].split())}\n" for name in names.split(";"))
    query = "&".join(sorted(part if "=" in part else f"{part}=" for part in query.split("&"))) if query else ""
    request = "\n".join([asked.command, path, query, headers, names, asked.headers["x-amz-content-sha256"]])
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", asked.headers["x-amz-date"], scope, digest])
    key = f"AWS4{secret}".encode()
    for part in [*scope.split("/"), text]:
        key = hmac.digest(key, part.encode(), "sha256")
    return key.hex()


def etag(file: Path) -> str:
    """Version of an object: of its content alone, as S3 gives it."""
    return f'"{hashlib.md5(file.read_bytes()).hexdigest()}"'


def well(method: str, path: str, times: int) -> None:
    """Fail at nothing."""


@contextmanager
def object_store(
    folder: Path, failure: Failure = well, conditions: Conditions = "kept"
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Serve ``folder/BUCKET/KEY``; gives the address and the list of what is asked for."""
    with running(folder, failure, conditions) as server:
        yield server.address, server.asked


@contextmanager
def running(folder: Path, failure: Failure = well, conditions: Conditions = "kept") -> Iterator[Store]:
    """Run a server."""
    server = Store(folder, failure, conditions)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def credentials(address: str) -> Iterator[None]:
    """Let this process and those it starts use the store at an address."""
    names = {"ACCESS_KEY_ID": "name", "SECRET_ACCESS_KEY": "word", "REGION": "us-east-1", "ENDPOINT_URL": address}
    before = dict(os.environ)
    os.environ.update({f"AWS_{name}": value for name, value in names.items()})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
