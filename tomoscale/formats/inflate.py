"""Deflate streams read at any place: states of the decoder are kept on the way, so that a later read goes on from there."""

from __future__ import annotations

import bisect
import os
import threading
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from tomoscale.errors import InputError

Wrapper = Literal["gzip", "zlib"]

MAX_RATIO = 1032
"""A deflated byte gives at most this many: 258 bytes for 2 bits (RFC 1951)."""
MAX_STATES = 512  # of 40 KiB each
MIN_SPACING_BYTES = 4 * 2**20
RECENT_STATES = 8
_INPUT_BYTES = 256 * 2**10
_OUTPUT_BYTES = 2**20
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "zlib": zlib.MAX_WBITS}


@dataclass(frozen=True)
class _State:
    """A decoder that has given `position` bytes and takes the file's byte `at` next."""

    position: int
    at: int
    decoder: Any

    def copy(self) -> _State:
        return _State(self.position, self.at, self.decoder.copy())


class Stream:
    """A compressed stream and the states met so far; threads may share it.

    The states are spaced so that there are at most `MAX_STATES`, however long the stream is; the ends of the last few
    reads are kept too, which makes reading plane after plane one single pass.

    Parameters
    ----------
    path : str
    start_bytes : int
        Where in the file the stream begins.
    wrapper : "gzip" or "zlib"
        A gzip stream may have several members.
    decoded_bytes : int
        No more than this is ever decoded.
    """

    def __init__(self, path: str, start_bytes: int, wrapper: Wrapper, decoded_bytes: int) -> None:
        self.path = path
        self.wrapper = wrapper
        self.decoded_bytes = decoded_bytes
        self.spacing = max(MIN_SPACING_BYTES, -(-decoded_bytes // MAX_STATES))
        self._states = [_State(0, start_bytes, self.new_decoder())]
        self._recent: OrderedDict[int, _State] = OrderedDict()
        self._lock = threading.Lock()

    def new_decoder(self) -> Any:
        """Decoder at the start of a stream or member."""
        return zlib.decompressobj(_WINDOW_BITS[self.wrapper])

    def nearest(self, position: int) -> _State:
        """Copy of the last state known at or before `position`."""
        with self._lock:
            number = bisect.bisect_right(self._states, position, key=lambda s: s.position) - 1
            recent = [s for s in self._recent.values() if s.position <= position]
            return max([self._states[number], *recent], key=lambda s: s.position).copy()

    def keep(self, state: _State, *, recent: bool = False) -> None:
        """Remember a state; one that lies on the way is dropped where others are near."""
        with self._lock:
            if recent:
                self._recent[state.position] = state
                self._recent.move_to_end(state.position)
                while len(self._recent) > RECENT_STATES:
                    self._recent.popitem(last=False)
                return
            number = bisect.bisect_right(self._states, state.position, key=lambda s: s.position)
            near = self._states[max(number - 1, 0) : number + 1]
            if all(abs(s.position - state.position) >= self.spacing // 2 for s in near):
                self._states.insert(number, state)

    def cursor(self, position: int) -> Cursor:
        """Reader that starts at `position` of the decoded bytes and goes forward only."""
        return Cursor(self, self.nearest(position))


class Cursor:
    """One pass forward through a `Stream`, used by one thread in a ``with`` block."""

    def __init__(self, stream: Stream, state: _State) -> None:
        self._stream = stream
        self._decoder, self._position, self._at = state.decoder, state.position, state.at
        self._input: bytes | memoryview = b""

    def __enter__(self) -> Cursor:
        self._file = os.open(self._stream.path, os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        os.close(self._file)
        if kind is None:
            self._stream.keep(self._state(), recent=True)

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` with the decoded bytes from `offset` on, which must not lie before the last read's end.

        Raises
        ------
        InputError
            If the stream is damaged or ends before.
        """
        while self._position < offset:
            self._some(min(offset - self._position, _OUTPUT_BYTES))
        done = 0
        while done < len(target):
            part = self._some(min(len(target) - done, _OUTPUT_BYTES))
            target[done : done + len(part)] = part
            done += len(part)
        if self._position == self._stream.decoded_bytes:
            self._check_end()

    def _some(self, most: int) -> bytes:
        """Between 1 and `most` further bytes."""
        due = self._position - self._position % self._stream.spacing + self._stream.spacing
        while True:
            if self._decoder.eof:
                self._next_member()
            if not len(self._input):
                self._input = os.pread(self._file, _INPUT_BYTES, self._at)
            part: bytes = self._decode(self._input, min(most, due - self._position))
            if part:
                break
            # What the decoder holds back comes without input; only then is an empty answer the end of the file.
            if not len(self._input) and not self._decoder.eof and not os.pread(self._file, 1, self._at):
                raise InputError(
                    f"{self._stream.path} is truncated: its compressed voxels end after {self._position} of "
                    f"{self._stream.decoded_bytes} bytes; copy the file again"
                )
        self._position += len(part)
        if self._position == due:
            self._stream.keep(self._state())
        return part

    def _decode(self, data: bytes | memoryview, most: int) -> bytes:
        try:
            part: bytes = self._decoder.decompress(data, most)
        except zlib.error as error:
            raise InputError(
                f"{self._stream.path} is damaged: its compressed voxels cannot be decoded after {self._position} of "
                f"{self._stream.decoded_bytes} bytes ({error}); copy the file again"
            ) from None
        rest = self._decoder.unused_data if self._decoder.eof else self._decoder.unconsumed_tail
        self._at += len(data) - len(rest)
        self._input = memoryview(data)[len(data) - len(rest) :]
        return part

    def _next_member(self) -> None:
        more = self._stream.wrapper == "gzip" and os.pread(self._file, 2, self._at) == b"\x1f\x8b"
        if not more:
            raise InputError(
                f"{self._stream.path} holds {self._position} decompressed bytes where its header asks for "
                f"{self._stream.decoded_bytes}: it is truncated, or the header is of another file"
            )
        self._decoder = self._stream.new_decoder()

    def _check_end(self) -> None:
        """Let the decoder compare its checksum, where the stream ends with the voxels; a longer one is left alone."""
        while not self._decoder.eof:
            data = self._input if len(self._input) else os.pread(self._file, _INPUT_BYTES, self._at)
            try:
                more = bool(self._decoder.copy().decompress(data, 1))
            except zlib.error as error:
                raise InputError(f"{self._stream.path} is damaged: {error} at its end; copy the file again") from None
            if more:
                return
            if not len(data):
                raise InputError(f"{self._stream.path} is truncated: its checksum is missing; copy the file again")
            self._decode(data, 1)

    def _state(self) -> _State:
        return _State(self._position, self._at, self._decoder.copy())


def check_ratio(path: str, start_bytes: int, decoded_bytes: int) -> None:
    """Refuse a stream said to hold more than deflate can pack into the bytes that are there.

    Raises
    ------
    InputError
        If so: the header is wrong, or made to fill a memory.
    """
    packed = max(os.stat(path).st_size - start_bytes, 0)
    if decoded_bytes > MAX_RATIO * packed:
        raise InputError(
            f"{path} is said to hold {decoded_bytes} bytes of voxels, but its {packed} compressed bytes can hold "
            f"{MAX_RATIO * packed} at most: it is truncated, or its header is wrong"
        )


@lru_cache(maxsize=4)
def stream_of(path: str, start_bytes: int, wrapper: Wrapper, decoded_bytes: int, modified: int) -> Stream:
    """Stream whose states this process keeps until others are read or the file changes (`modified`, in ns)."""
    return Stream(path, start_bytes, wrapper, decoded_bytes)
