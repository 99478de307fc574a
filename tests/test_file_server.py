"""The server of files gives the files of its folders, ranges of them, and nothing else."""

from __future__ import annotations

import http.client
import json
import socket
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.formats.object_store import credentials, running, well
from tests.test_view import written
from tomoscale import bucket_client
from tomoscale.file_server import PIECE_BYTES, FileServer, byte_slice
from tomoscale.places import place


@pytest.fixture
def folder(tmp_path):
    """A folder with a file in it and others around it."""
    folder = tmp_path / "scans/in"
    for name, content in (("in/a/chunk", bytes(range(100))), ("secret", b"secret"), ("in2/secret", b"secret")):
        file = folder.parent / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


@pytest.fixture
def store(folder, tmp_path, monkeypatch):
    """An object store in which that folder is the prefix ``in`` of the bucket ``scans``; there is another bucket."""
    monkeypatch.setattr(bucket_client, "RETRIES", 1)
    bucket_client.client_of.cache_clear()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/secret").write_bytes(b"secret")
    with running(tmp_path, well) as server, credentials(server.address):
        yield server
    bucket_client.client_of.cache_clear()


@pytest.fixture(params=["files", "bucket"])
def files(request, folder):
    """A server of one folder on a disk, or in a bucket."""
    root = folder
    if request.param == "bucket":
        request.getfixturevalue("store")
        root = place("s3://scans/in")
    else:
        (folder / "link").symlink_to(folder.parent / "secret")
        (folder / "up").symlink_to(folder.parent)
        (folder / "circle").symlink_to(folder / "circle")
    server = FileServer([root], "http://127.0.0.1:1")
    yield server
    server.close()


def ask(files, path, method="GET", **headers):
    """Status, headers and body of a request as it is written, without any mending by a client."""
    connection = http.client.HTTPConnection(urlsplit(files.address(0)).netloc, timeout=10)
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def test_files_and_ranges_of_them_are_served(files):
    path = urlsplit(files.address(0)).path
    status, headers, body = ask(files, f"{path}a/chunk")
    assert (status, body, headers["Content-Length"]) == (200, bytes(range(100)), "100")
    assert headers["Access-Control-Allow-Origin"] == "http://127.0.0.1:1"
    for asked, expected in (
        ("bytes=10-19", range(10, 20)),
        ("bytes=-7", range(93, 100)),
        ("bytes=90-", range(90, 100)),
    ):
        status, headers, body = ask(files, f"{path}a/chunk", Range=asked)
        assert (status, body) == (206, bytes(expected))
        assert headers["Content-Range"] == f"bytes {expected.start}-{expected.stop - 1}/100"
    assert ask(files, f"{path}a/chunk", "HEAD", Range="bytes=0-4")[0::2] == (206, b"")
    assert ask(files, f"{path}a/chunk", Range="bytes=100-")[0] == 416
    assert ask(files, f"{path}a/chunk", "HEAD", Range="bytes=100-")[0] == 416
    assert ask(files, f"{path}a/chunk", Range="bytes=-1000")[2] == bytes(range(100))
    assert ask(files, f"{path}a/chunk", Range="bytes=-0")[0] == 416
    assert ask(files, f"{path}a/no", "HEAD")[0] == 404
    assert ask(files, f"{path}a/chunk", "OPTIONS")[1]["Access-Control-Allow-Headers"] == "range"
    assert ask(files, f"{path}a/chunk", "PUT")[0] == 501


OUTSIDE = (
    "../secret",
    "%2e%2e/secret",
    "a/../../secret",
    "..%2fsecret",
    "%2fetc%2fpasswd",
    "a%2fchunk",
    "/etc/passwd",
    "link",
    "up/secret",
    "up/in2/secret",
    "../in2/secret",
    "circle/x",
    "a",
    "",
    "a/chunk/x",
    "a%00/chunk",
    "a%01/chunk",
    "a/%2e/chunk",
    "%252e%252e/secret",
    "..%252fsecret",
    "..%5csecret",
    "../../other/secret",
    "?list-type=2",
    "a?list-type=2&prefix=",
    "a/" + "x" * 1500,
)


def test_nothing_outside_the_folder_is_served(files):
    for inside in OUTSIDE:
        for method in ("GET", "HEAD"):
            status, _, body = ask(files, urlsplit(files.address(0)).path + inside, method)
            assert (status, body) == (404, b""), inside


def test_links_are_followed_inside_the_folder_alone(folder):
    (folder / "inner").symlink_to(folder / "a")
    (folder / "out").symlink_to(folder.parent)
    server = FileServer([folder], "")
    path = urlsplit(server.address(0)).path
    assert ask(server, f"{path}inner/chunk")[2] == bytes(range(100))
    assert ask(server, f"{path}out/secret")[0] == 404
    server.close()


def test_a_bucket_is_asked_once_for_what_is_wanted_and_for_nothing_else(store):
    server = FileServer([place("s3://scans/in")], "http://127.0.0.1:1")
    path = urlsplit(server.address(0)).path
    for headers in ({}, {"Range": "bytes=-7"}, {"Range": "bytes=3-9"}, {"Range": "bytes=90-"}):
        store.asked.clear()
        ask(server, f"{path}a/chunk?prefix=secret", **headers)
        assert store.asked == [("GET", "/scans/in/a/chunk")]
    store.asked.clear()
    for inside in OUTSIDE:
        ask(server, path + inside)
        ask(server, path.replace(server.token, "x" * len(server.token)) + inside)
    assert store.asked
    assert all(asked.startswith("/scans/in/") and "?" not in asked for _, asked in store.asked)
    server.close()


def test_the_page_learns_neither_credentials_nor_the_address_of_the_store(store, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-of-mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "for-an-hour")
    server = FileServer([place("s3://scans/in")], "http://127.0.0.1:1")
    path, said = urlsplit(server.address(0)).path, server.address(0)
    for failure in (well, lambda *_: 403, lambda *_: "drop", lambda *_: 404):
        store.failure = failure
        status, headers, body = ask(server, f"{path}a/chunk")
        assert status == {well: 200}.get(failure, status)
        said += str(headers) + body.decode("latin1")
    assert "key-of-mine" in store.names
    for secret in ("key-of-mine", "hush-hush", "for-an-hour", "scans", store.address):
        assert secret not in said
    server.close()


def test_what_the_store_refuses_the_page_is_refused(store):
    server = FileServer([place("s3://scans/in")], "")
    path = urlsplit(server.address(0)).path
    for failure, status in ((403, 403), ("drop", 502), (500, 502)):
        store.failure = lambda *_, failure=failure: failure
        for method in ("GET", "HEAD"):
            assert ask(server, f"{path}a/chunk", method)[::2] == (status, b"")
            assert ask(server, f"{path}a/chunk", method, Range="bytes=200-")[0] == status
            assert ask(server, f"{path}a/zarr.json", method)[0] == status
    server.close()


def test_a_large_object_passes_piece_by_piece(folder, store):
    content = np.random.default_rng(0).bytes(6 * PIECE_BYTES + 7)
    (folder / "large").write_bytes(content)
    root = place("s3://scans/in")
    part = (root / "large").read_part(slice(5, None), PIECE_BYTES)
    pieces = list(part.pieces)
    assert (part.size, part.span) == (len(content), range(5, len(content)))
    assert b"".join(pieces) == content[5:]
    assert max(map(len, pieces)) < 2 * PIECE_BYTES
    server = FileServer([root], "")
    assert ask(server, urlsplit(server.address(0)).path + "large")[2] == content
    server.close()


def test_nothing_is_served_without_the_token_and_a_number(files):
    for path in (
        "/{t}/1/a/chunk",
        "/{t}/-1/a/chunk",
        "/{t}/00/a/chunk",
        "/x/0/a/chunk",
        "//0/a/chunk",
        "/",
        "x",
        "/é/0/a",
    ):
        assert files.find(path.format(t=files.token)) is None, path
    assert files.find(f"/{files.token}/0/a/chunk") is not None


def test_the_server_listens_on_the_loopback_address_alone(files):
    port = urlsplit(files.address(0)).port
    own = socket.gethostbyname(socket.gethostname())
    if own.startswith("127."):
        pytest.skip("this machine has no other address")
    with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
        socket.create_connection((own, port), timeout=2).close()


def test_ranges_that_make_no_sense_are_empty():
    for asked in (
        "bytes=5-2",
        "bytes=-",
        "bytes=a-b",
        "bytes=0-1,4-5",
        "bytes=100-200",
        "bytes=-0",
        "bytes=-00",
        "lines=0-1",
        "bytes=٣-٤",
        "bytes=0-" + "9" * 70,
    ):
        assert not range(100)[byte_slice(asked)], asked
    assert range(100)[byte_slice("bytes=0-999")] == range(100)


def test_masks_and_wide_labels_are_served_as_types_with_the_same_bytes(tmp_path):
    labels = np.arange(4096).reshape(16, 16, 16)
    for version, name, key in (("0.5", "zarr.json", "data_type"), ("0.4", ".zarray", "dtype")):
        for values, types in ((labels > 9, ("uint8", "|u1")), (labels.astype("int64"), ("uint64", "<u8"))):
            path = tmp_path / f"{version}-{values.dtype}.zarr"
            kind = "mask" if values.dtype == bool else "labels"
            written(path, values, kind=kind, ome_version=version)
            server = FileServer([path], "")
            served = json.loads(ask(server, urlsplit(server.address(0)).path + f"0/{name}")[2])
            server.close()
            assert served[key] == types[version == "0.4"]
            assert served["fill_value"] == 0
            assert served["fill_value"] is not False
