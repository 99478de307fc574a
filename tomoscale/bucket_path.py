"""An address in a bucket, with what this program asks of a path; there are no folders, one is there as long as an object is.

Objects are written whole or not at all, replaced at once, and made by one writer alone where that is asked for
(``If-None-Match: *``). Requests that a busy server refuses, or that a lost connection ends, are repeated with growing
pauses by the library, as `tomoscale.bucket_client` says.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from tomoscale.bucket_client import Bucket, Stored, client_of, error_code, library, no_answer
from tomoscale.retries import retried

METADATA = ("zarr.json", ".zgroup", ".zattrs")
"""Files that say what a folder holds."""
DELETED_AT_ONCE = 1000
PROBE = ".probe"
"""Ending of objects with which a server is tried (`tomoscale.bucket_conditions`)."""


ADVICE = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"
"""To who has no permission."""


class Part(NamedTuple):
    """Part of a file or an object: its size as a whole, which bytes of it are meant, these, piece by piece, and of which version."""

    size: int
    span: range
    pieces: Iterator[bytes]
    version: str = ""


@dataclass(frozen=True, order=True)
class BucketPath:
    """Address of an object, or of all objects below it.

    Attributes
    ----------
    bucket : Bucket
    key : str
        Without a slash at either end.
    """

    bucket: Bucket
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket.name}/{self.key}"

    def __truediv__(self, inside: str | PurePosixPath) -> BucketPath:
        parts = [*self.key.split("/"), *PurePosixPath(inside).parts]
        return replace(self, key="/".join(part for part in parts if part))

    @property
    def name(self) -> str:
        """Last part of the address."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> BucketPath:
        """Address without its last part."""
        return replace(self, key=self.key.rpartition("/")[0])

    @property
    def parents(self) -> list[BucketPath]:
        """Addresses above this one, the closest first."""
        return [self.parent, *self.parent.parents] if self.key else []

    def with_name(self, name: str) -> BucketPath:
        """Address beside this one."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> BucketPath:
        """Address of the same name with another ending."""
        return self.with_name(PurePosixPath(self.name).with_suffix(suffix).name)

    def resolve(self) -> BucketPath:
        """Return the address itself: there are no links."""
        return self

    def absolute(self) -> BucketPath:
        """Return the address itself."""
        return self

    def is_symlink(self) -> bool:
        """Return False: there are no links."""
        return False

    def is_file(self) -> bool:
        """Whether there is an object."""
        return self.stored() is not None

    def is_dir(self) -> bool:
        """Whether there are objects below."""
        with _translated(self):
            return any(chunk for chunk in library().list(client_of(self.bucket), self.key, chunk_size=1))

    def exists(self) -> bool:
        """Whether there is an object here or below."""
        return self.is_file() or self.is_dir()

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a folder is there when something lies in it."""

    def iterdir(self) -> Iterator[BucketPath]:
        """Objects and folders directly below, in the order of their names."""
        with _translated(self):
            found = library().list_with_delimiter(client_of(self.bucket), self.key)
        keys = [*found["common_prefixes"], *(meta["path"] for meta in found["objects"])]
        return (replace(self, key=key) for key in sorted(keys))

    def stored(self) -> Stored | None:
        """Size, time and version of an object; None if there is none."""
        try:
            with _translated(self):
                return Stored.of(library().head(client_of(self.bucket), self.key))
        except FileNotFoundError:
            return None

    def below(self, after: str = "") -> Iterator[tuple[str, Stored]]:
        """All objects below, in the order of their paths from here; those behind the path `after` alone."""
        start, offset = len(self.key) + 1, f"{self.key}/{after}" if after else None
        with _translated(self):
            for chunk in library().list(client_of(self.bucket), self.key, offset=offset):
                for meta in chunk:
                    yield meta["path"][start:], Stored.of(meta)

    def read(self, most: int) -> tuple[int, bytes | None]:
        """Size of an object, and its content if that is not more than so many bytes."""
        with _translated(self):
            found = library().get(client_of(self.bucket), self.key)
            size = int(found.meta["size"])
            return size, bytes(found.bytes()) if size <= most else None

    def read_bytes(self) -> bytes:
        """Content of an object."""
        with _translated(self):
            return bytes(library().get(client_of(self.bucket), self.key).bytes())

    def read_text(self) -> str:
        """Content of an object, as text."""
        return self.read_bytes().decode()

    def read_end(self, n_bytes: int) -> tuple[int, bytes]:
        """Size of an object, and its last bytes."""
        with _translated(self):
            found = library().get(client_of(self.bucket), self.key, options={"range": {"suffix": n_bytes}})
            return int(found.meta["size"]), bytes(found.bytes())

    def read_part(self, wanted: slice, piece_bytes: int) -> Part:
        """Bytes of an object in pieces of so many bytes, or a little more, as they come; asked for once."""
        if wanted.stop is not None and wanted.stop <= wanted.start:
            return self.part(wanted)
        try:
            with _translated(self):
                found = library().get(client_of(self.bucket), self.key, options=_range_option(wanted))
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:
            # To ask for what lies behind its end is an error, and the library does not say which.
            part = self.part(wanted)
            if part.span:
                raise
            return part
        size, version = int(found.meta["size"]), str(found.meta["e_tag"])
        return Part(size, range(*found.range), self._pieces(found, piece_bytes), version)

    def part(self, wanted: slice) -> Part:
        """Which bytes of an object there are in a part of it; none is read."""
        stored = self.stored()
        if stored is None:
            raise FileNotFoundError(2, "there is no such object", str(self))
        return Part(stored.size, range(stored.size)[wanted], iter(()), stored.version)

    def write(self, data: bytes) -> str:
        """Write an object, or replace it; return its version."""
        return self._put(data, "overwrite")

    def create(self, data: bytes) -> str | None:
        """Write an object that is not there yet; return its version, or None if there is one.

        The answer to the first try may be lost, and the second finds what the first made: an object that holds the very
        bytes is ours, so `data` must not be what another writer would write.
        """
        try:
            return self._put(data, "create")
        except FileExistsError:
            return self._ours(data)

    def update(self, data: bytes, version: str) -> str | None:
        """Replace an object of that version; return the new version, or None if it has another or is gone."""
        # As HTTP writes it, in quotes; gateways of Ceph, at least up to 16, compare what they are sent with the bare text.
        for tag in (version, version.strip('"')):
            with suppress(FileExistsError, FileNotFoundError):
                return self._put(data, {"e_tag": tag})
        return self._ours(data)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove an object."""
        if not missing_ok and not self.is_file():
            raise FileNotFoundError(f"{self} does not exist")
        self._delete([self.key])

    def remove_below(self) -> None:
        """Remove all objects below."""
        # What says that there is a volume goes first, and last what says that it was ours: a removal that was cut short
        # leaves nothing that can be read, and can be given again.
        for name in METADATA:
            (self / name).unlink(missing_ok=True)
        self._remove([inside for inside, _ in self.below() if not inside.endswith("plan.json")])
        self._remove([inside for inside, _ in self.below()])

    def _remove(self, inside: list[str]) -> None:
        keys = [f"{self.key}/{name}" for name in inside]
        for first in range(0, len(keys), DELETED_AT_ONCE):
            self._delete(keys[first : first + DELETED_AT_ONCE])

    def _delete(self, keys: list[str]) -> None:
        def once() -> None:
            with _translated(self):
                library().delete(client_of(self.bucket), keys)

        with suppress(FileNotFoundError):
            retried(once)

    def _pieces(self, found: Any, piece_bytes: int) -> Iterator[bytes]:
        with _translated(self):
            yield from map(bytes, found.stream(min_chunk_size=piece_bytes))

    def _put(self, data: bytes, mode: Any) -> str:
        def once() -> str:
            with _translated(self):
                result = library().put(client_of(self.bucket), self.key, data, mode=mode, use_multipart=False)
            return str(result["e_tag"])

        return retried(once)

    def _ours(self, data: bytes) -> str | None:
        stored = self.stored()
        if stored is None or stored.size != len(data) or self.read_bytes() != data:
            return None
        return stored.version


def _range_option(wanted: slice) -> dict[str, Any]:
    """Bytes of an object as the library is told of them."""
    if wanted.stop is not None:
        return {"range": (wanted.start, wanted.stop)}
    if wanted.start is None:
        return {}
    return {"range": {"suffix": -wanted.start} if wanted.start < 0 else {"offset": wanted.start}}


@contextmanager
def _translated(path: BucketPath) -> Iterator[None]:
    """Turn what the library raises into errors as a file system gives them."""
    errors = library().exceptions
    try:
        yield
    except (errors.BaseError, FileNotFoundError) as error:
        raise _as_of_files(error, path) from None


def _as_of_files(error: BaseException, path: BucketPath) -> OSError:
    errors, code = library().exceptions, error_code(error)
    # The library says first what it asked for and how often, and last what became of it.
    asked, _, text = " ".join(str(error).split("Debug source")[0].split()).rpartition(" - ")
    text = text[:200]
    if code == "NoSuchBucket":
        return FileNotFoundError(2, "there is no such bucket", str(path))
    if isinstance(error, errors.NotFoundError | FileNotFoundError):
        return FileNotFoundError(2, "there is no such object", str(path))
    if isinstance(error, errors.AlreadyExistsError | errors.PreconditionError):
        return FileExistsError(17, "there is another object", str(path))
    # Of a list, the library does not say that it was refused for want of permission.
    denied = isinstance(error, errors.PermissionDeniedError | errors.UnauthenticatedError)
    if denied or re.search(r"status code: 40[13]\b", text):
        return PermissionError(13, f"no permission{f' ({code})' if code else ''}: {ADVICE}", str(path))
    if text.startswith("HTTP error") and not re.search(r"after \d+ retries", asked):
        # It does not know that what we put and remove may be put and removed again.
        return ConnectionResetError(errno.ECONNRESET, f"the object store ended the connection ({text})", str(path))
    return no_answer(str(path), text)
