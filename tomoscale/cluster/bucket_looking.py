"""Learn of a bucket what a diagnosis judges: whether it answers, whom it knows, what may be done there, and its clock."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tomoscale.bucket_client import Bucket, client_of, credentials_found, error_code, library
from tomoscale.bucket_conditions import condition_failure
from tomoscale.bucket_path import PROBE, BucketPath
from tomoscale.cluster.facts import BucketFolder
from tomoscale.errors import PlanError

ANSWER_SECONDS = 10
_CONTENT = b"tomoscale"


def look_at_bucket(path: BucketPath) -> BucketFolder:
    """Look at an address in a bucket: small objects are put below it and removed."""
    found = BucketFolder(path, server_of(path.bucket), credentials_found(), path.bucket.region or "")
    try:
        library()
    except PlanError as error:
        return replace(found, unreachable=str(error))
    answer = ask(found.server)
    if answer.failure:
        return replace(found, unreachable=answer.failure)
    if not found.credentials and path.bucket.endpoint:
        return found  # the library would ask for those of a machine of Amazon, for long
    refusals = refusals_of(path)
    if refusals:
        return replace(found, refusals=refusals)
    try:
        return replace(found, condition=condition_failure(path))
    except OSError as error:
        return replace(found, condition=f"conditions of a PUT ({error})")


def server_of(bucket: Bucket) -> str:
    """Address of the server of a bucket."""
    return bucket.endpoint or f"https://s3.{bucket.region or 'us-east-1'}.amazonaws.com"


class Answer(NamedTuple):
    """Why a server does not answer, empty if it does; and the clock of this machine minus its own, where it tells that."""

    failure: str = ""
    clock_offset_s: float | None = None


def ask(server: str) -> Answer:
    """Ask a server for its time, which needs no credentials."""
    try:
        before = time.time()
        try:
            with urlopen(Request(server, method="HEAD"), timeout=ANSWER_SECONDS) as answer:
                headers = answer.headers
        except HTTPError as error:
            headers = error.headers
        after = time.time()
    except (OSError, ValueError) as error:
        return Answer(str(getattr(error, "reason", None) or error)[:200])
    try:
        # Said in whole seconds, so it was on average half a second later.
        there = parsedate_to_datetime(headers["Date"]).timestamp() + 0.5
    except (TypeError, ValueError):
        return Answer()
    return Answer("", (before + after) / 2 - there)


def refusals_of(path: BucketPath) -> dict[str, str]:
    """What may not be done below an address, and what the server called that: nothing is tried that needs what was refused."""
    probe, client = path / f".{uuid.uuid4().hex[:12]}{PROBE}", client_of(path.bucket)

    def read() -> None:
        if bytes(library().get(client, probe.key).bytes()) != _CONTENT:
            raise OSError("reading gives other bytes than were written")

    steps: dict[str, Callable[[], object]] = {
        "list": lambda: next(iter(library().list(client, path.key, chunk_size=1)), None),
        "write": lambda: library().put(client, probe.key, _CONTENT, use_multipart=False),
        "read": read,
        "delete": lambda: library().delete(client, probe.key),
    }
    found = {}
    for step, do in steps.items():
        try:
            do()
        except (library().exceptions.BaseError, OSError) as error:
            text = " ".join(str(error).split("Debug source")[0].split()).rpartition(" - ")[2]
            found[step] = error_code(error) or text[:200]
            if step == "write" or found[step] != "AccessDenied":
                break
    if "read" in found:
        with suppress(library().exceptions.BaseError, OSError):
            library().delete(client, probe.key)
    return found
