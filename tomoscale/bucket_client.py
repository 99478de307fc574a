"""Clients of an object store that speaks S3: tensorstore puts the objects of voxels, obstore does all else."""

from __future__ import annotations

import configparser
import os
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from tomoscale.errors import PlanError

RETRIES = 8
"""Times a request is repeated, whatever it asks for."""
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 8.0
"""Pauses between, each longer than the one before and drawn by chance, so that many clients do not come back at once."""
RETRY_SECONDS = 45.0
"""And for how long: what takes longer is for the tries of a block, and then for the user; less than a lease lasts."""

_BUSY = re.compile(r"\b(503|429|SlowDown)\b")


@dataclass(frozen=True, order=True)
class Bucket:
    """Where objects are.

    Attributes
    ----------
    name : str
    endpoint : str or None
        Address of the server; None for Amazon's.
    region : str or None
    """

    name: str
    endpoint: str | None
    region: str | None

    def spec(self, key: str) -> dict[str, Any]:
        """Description of all that lies below a key, for tensorstore."""
        found: dict[str, Any] = {"driver": "s3", "bucket": self.name, "path": f"{key}/"}
        # A block owns its shards, so there is no other writer to be kept away; where a gateway of Ceph refuses every quoted
        # ETag, the library would ask again and again, for ever, to replace what a killed run left.
        found["use_conditional_write"] = False
        found |= {"endpoint": self.endpoint} if self.endpoint else {}
        if "AWS_ACCESS_KEY_ID" in os.environ:
            # Said, so that the library does not look for files of credentials, and complain that there are none.
            found["aws_credentials"] = {"type": "environment"}
        elif os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true"):
            found["aws_credentials"] = {"type": "anonymous"}
        return found | ({"aws_region": self.region} if self.region else {})


@dataclass(frozen=True)
class Stored:
    """What a server says of an object: its size in bytes, when it was written by the server's clock, and its version."""

    size: int
    modified: float
    version: str

    @classmethod
    def of(cls, meta: Any) -> Stored:
        """From the description that the library gives."""
        modified: datetime = meta["last_modified"]
        return cls(int(meta["size"]), modified.timestamp(), str(meta["e_tag"]))


def no_answer(place: str, said: str) -> OSError:
    """Error of a request that was repeated as long as that is worth it, with what became of the last try."""
    if _BUSY.search(said):
        advice = "run it again later, or with fewer workers at once: what a run has finished is kept"
        return OSError(f"{place}: the object store is busy and refused {RETRIES + 1} tries ({said}); {advice}")
    return OSError(f"{place}: the object store does not answer ({said}); check AWS_ENDPOINT_URL and AWS_REGION")


def library() -> Any:
    """Return obstore.

    Raises
    ------
    PlanError
        If it is not installed.
    """
    try:
        import obstore
    except ImportError:
        raise PlanError("volumes in an object store need obstore: pip install 'tomoscale[s3]'") from None
    return obstore


@lru_cache(maxsize=16)
def client_of(bucket: Bucket) -> Any:
    """Client of a bucket, one in each process."""
    from obstore.store import S3Store

    first, longest = timedelta(seconds=FIRST_PAUSE_SECONDS), timedelta(seconds=LONGEST_PAUSE_SECONDS)
    pauses = {"init_backoff": first, "max_backoff": longest, "base": 2}
    retries = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS), "backoff": pauses}
    asked: dict[str, Any] = {"endpoint": bucket.endpoint} if bucket.endpoint else {}
    asked |= {"region": bucket.region} if bucket.region else {}
    options = {"allow_http": (bucket.endpoint or "").startswith("http:"), "timeout": timedelta(seconds=30)}
    asked |= {"client_options": options, "retry_config": retries, **_stored_credentials()}
    return S3Store(bucket.name, **asked)


def error_code(error: BaseException) -> str:
    """What S3 calls an error, such as "NoSuchBucket"; empty where the server did not say."""
    found = re.search(r"<Code>(\w+)</Code>", str(error))
    if found is None and "incorrectly configured region" in str(error):
        return "PermanentRedirect"  # which the library says in words of its own
    return found[1] if found else ""


def credentials_found() -> str:
    """Where credentials come from; empty if there are none, so that only a machine of Amazon itself could give some."""
    if {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= set(os.environ):
        return "AWS_ACCESS_KEY_ID"
    if len(_stored_credentials()) > 1:
        return str(_credentials_file())
    others = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_SKIP_SIGNATURE")
    return next((name for name in others if os.environ.get(name)), "")


def _credentials_file() -> Path:
    return Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()


def _stored_credentials() -> dict[str, str]:
    """Credentials of the user's file, where the environment has none; {} where neither does."""
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return {}
    file = _credentials_file()
    parser = configparser.RawConfigParser()
    try:
        parser.read(file)
        section = parser[os.environ.get("AWS_PROFILE", "default")]
    except (configparser.Error, KeyError, OSError, UnicodeDecodeError):
        return {}
    names = {"aws_access_key_id": "access_key_id", "aws_secret_access_key": "secret_access_key"}
    names["aws_session_token"] = "session_token"
    return {ours: section[theirs] for theirs, ours in names.items() if theirs in section}
