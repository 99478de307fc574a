"""A bucket of results is looked at as a folder is: what is planted there is found, and nothing is left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.formats.object_store import Store, credentials, running
from tomoscale import bucket_client
from tomoscale.cli import main
from tomoscale.cluster import doctor
from tomoscale.cluster.bucket_looking import ask

FOLDER = "s3://scans/study"


@pytest.fixture(autouse=True)
def few_tries(monkeypatch, tmp_path) -> Iterator[None]:
    monkeypatch.setattr(bucket_client, "RETRIES", 1)
    monkeypatch.setattr(bucket_client, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(doctor, "HOME", tmp_path / "keys")
    bucket_client.client_of.cache_clear()
    yield
    bucket_client.client_of.cache_clear()


@pytest.fixture
def server(tmp_path) -> Iterator[Store]:
    with running(tmp_path / "store") as found, credentials(found.address):
        found.secret = "word"
        yield found


def told(capsys, *arguments: str) -> tuple[int, list[dict[str, str]]]:
    """Exit code, and what is said of the bucket."""
    capsys.readouterr()
    code = main(["cluster", "doctor", "--folder", FOLDER, *arguments, "--json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    return code, [finding for finding in findings if "bucket" in finding["check"]]


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_a_sound_bucket_is_sound_and_nothing_is_left(tmp_path, server, capsys):
    assert told(capsys)[1] == []
    assert {method for method, _ in server.asked} == {"HEAD", "GET", "PUT", "POST"}
    assert files(tmp_path) == []


def test_workers_find_the_bucket_for_themselves(tmp_path, server, capsys):
    capsys.readouterr()
    main(["cluster", "doctor", "--folder", FOLDER, "--workers", "processes", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert {worker["sees_token"] for worker in found["workers"]} == {True}
    assert all(abs(worker["clock_offset_s"]) < 5 for worker in found["workers"])
    assert not [finding for finding in found["findings"] if "bucket" in finding["check"]]
    assert files(tmp_path) == []


def denied(wanted: str) -> Callable[[str, str, int], Any]:
    return lambda method, path, times: 403 if method == wanted and ("/study/" in path or wanted == "POST") else None


def no_bucket(method: str, path: str, times: int) -> Any:
    return "404 NoSuchBucket" if "scans" in path else None


def no_list(method: str, path: str, times: int) -> Any:
    return 403 if "list-type" in path else None


FAULTS: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "no such bucket": ({"failure": no_bucket}, "bucket", ("there is no bucket scans", "make it")),
    "read only": ({"failure": denied("PUT")}, "bucket rights", ("no permission to write objects", "s3:PutObject")),
    "no list": ({"failure": no_list}, "bucket rights", ("no permission to list", "s3:ListBucket")),
    "no read": ({"failure": denied("GET")}, "bucket rights", ("no permission to read", "s3:GetObject")),
    "no delete": ({"failure": denied("POST")}, "bucket rights", ("no permission to delete", "s3:DeleteObject")),
    "busy": ({"failure": lambda *_: 503}, "bucket", ("cannot list objects: SlowDown", "look again later")),
    "no If-None-Match": ({"conditions": "no If-None-Match"}, "bucket conditions", ("4 of 4 writers", "file system")),
    "no If-Match": ({"conditions": "no If-Match"}, "bucket conditions", ("If-Match of a PUT", "another ETag")),
    "wrong secret": (
        {"secret": "other"},
        "bucket credentials",
        ("secret key does not belong", "SignatureDoesNotMatch"),
    ),
    "another region": (
        {"failure": lambda *_: "301 PermanentRedirect"},
        "bucket credentials",
        ("us-east-1", "AWS_REGION"),
    ),
    "a clock ahead": ({"clock_seconds": -1200.0}, "bucket clock", ("20 min ahead of", "time from the network")),
    "a clock behind": ({"clock_seconds": 1200.0}, "bucket clock", ("20 min behind",)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_planted_in_a_server_is_found_with_its_place_and_the_way_out(tmp_path, server, capsys, name):
    change, check, words = FAULTS[name]
    for attribute, value in change.items():
        setattr(server, attribute, value)
    code, found = told(capsys)
    assert code == 4
    (finding,) = found
    assert (finding["check"], finding["level"]) == (check, "fault")
    text = f"{finding['what']} {finding['where']} {finding['mend']}"
    assert all(word in text for word in words), text
    assert check == "bucket clock" or f"{FOLDER} at {server.address}" in finding["where"]
    assert files(tmp_path) == [] or name == "no delete"
    assert main(["cluster", "doctor", "--folder", FOLDER]) == 4
    assert f"fault 1 ({check})" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["both", "secret"])
def test_missing_credentials_are_found_without_asking_for_long(tmp_path, server, capsys, monkeypatch, missing):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    if missing == "both":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    code, found = told(capsys)
    assert code == 4
    assert [finding["check"] for finding in found] == ["bucket credentials"]
    assert "none in the environment or in ~/.aws/credentials" in found[0]["what"]
    assert "AWS_SECRET_ACCESS_KEY" in found[0]["mend"]
    assert {method for method, _ in server.asked} == {"HEAD"}
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[default]\naws_access_key_id = n\naws_secret_access_key = word\n")
    bucket_client.client_of.cache_clear()
    assert told(capsys)[1] == [] or missing == "secret"


def test_a_server_that_is_not_there_is_found(server, capsys, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    code, (finding,) = told(capsys)
    assert code == 4
    assert finding["check"] == "bucket server"
    assert "refused" in finding["what"]
    assert "at http://127.0.0.1:9" in finding["where"]
    assert ask("no address").failure
    assert os.environ["AWS_ENDPOINT_URL"] not in server.address
