"""The server of files gives the files of its folders, ranges of them, and nothing else."""

from __future__ import annotations

import http.client
import json
import socket
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.test_view import written
from tomoscale.file_server import FileServer, byte_range


@pytest.fixture
def files(tmp_path):
    """A server of one folder, with a file in it and others around it."""
    (tmp_path / "in/a").mkdir(parents=True)
    (tmp_path / "in/a/chunk").write_bytes(bytes(range(100)))
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "in2").mkdir()
    (tmp_path / "in2/secret").write_bytes(b"secret")
    (tmp_path / "in/link").symlink_to(tmp_path / "secret")
    (tmp_path / "in/up").symlink_to(tmp_path)
    (tmp_path / "in/inner").symlink_to(tmp_path / "in/a")
    server = FileServer([tmp_path / "in"], "http://127.0.0.1:1")
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
    assert ask(files, f"{path}inner/chunk")[2] == bytes(range(100))
    assert ask(files, f"{path}a/chunk", "OPTIONS")[1]["Access-Control-Allow-Headers"] == "range"
    assert ask(files, f"{path}a/chunk", "PUT")[0] == 501


OUTSIDE = (
    "../secret",
    "%2e%2e/secret",
    "a/../../secret",
    "..%2fsecret",
    "%2fetc%2fpasswd",
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
    "a/" + "x" * 5000,
)


def test_nothing_outside_the_folder_is_served(files, tmp_path):
    (tmp_path / "in/circle").symlink_to(tmp_path / "in/circle")
    for inside in OUTSIDE:
        status, _, body = ask(files, urlsplit(files.address(0)).path + inside)
        assert (status, body) == (404, b""), inside


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


def test_ranges_that_make_no_sense_are_none():
    for asked in (
        "bytes=5-2",
        "bytes=-",
        "bytes=a-b",
        "bytes=0-1,4-5",
        "bytes=100-200",
        "bytes=-0",
        "lines=0-1",
        "bytes=٣-٤",
    ):
        assert byte_range(asked, 100) is None
    assert byte_range("bytes=0-" + "9" * 70, 100) is None
    assert byte_range("bytes=0-999", 100) == range(100)


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
