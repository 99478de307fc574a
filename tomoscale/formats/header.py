"""What the headers of medical formats have in common: bounded text, lengths with x first, a data file beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tomoscale.errors import InputError
from tomoscale.formats.raw_layout import size_of
from tomoscale.geometry import Shape, Spacing
from tomoscale.voxel_size import check_voxel_size

MAX_HEADER_BYTES = 2**20


def first_bytes(path: Path, count: int = MAX_HEADER_BYTES) -> bytes:
    """Return the first `count` bytes of a file, fewer where it is shorter.

    Raises
    ------
    InputError
        If it is not there or cannot be read.
    """
    size_of(path)
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def whole_numbers(text: str, what: str) -> list[int]:
    """Integers of a line.

    Raises
    ------
    InputError
        If it holds anything else; `what` says whose line it is.
    """
    try:
        # A number of thousands of digits is refused by Python itself, as a ValueError.
        return [int(word) for word in text.split()]
    except ValueError:
        raise InputError(f"{what} is {text[:80]!r}, but must be whole numbers; the header is damaged") from None


def whole_number(text: str, what: str) -> int:
    """One integer; raise `InputError` if the line holds anything else."""
    numbers = whole_numbers(text, what)
    if len(numbers) != 1:
        raise InputError(f"{what} is {text[:80]!r}, but must be one whole number; the header is damaged")
    return numbers[0]


def lengths(text: str, what: str) -> list[float]:
    """Floating-point numbers of a line.

    Raises
    ------
    InputError
        If it holds anything else.
    """
    try:
        return [float(word) for word in text.split()]
    except ValueError:
        raise InputError(f"{what} is {text[:80]!r}, but must be numbers; the header is damaged") from None


def three_axes(sizes: Sequence[int], what: str) -> Shape:
    """Shape (z, y, x) from sizes with the fastest axis first; axes of length one may follow.

    Raises
    ------
    InputError
        If it is not a volume: pictures, series in time, colours and vectors are not.
    """
    kept = list(sizes[:3])
    if len(kept) != 3 or min(kept) < 1 or any(n != 1 for n in sizes[3:]):
        raise InputError(
            f"{what} are {' x '.join(map(str, sizes[:8]))} voxels (x, y, z, ...), but must be those of one volume of three axes: "
            "export one time step, channel or component by itself"
        )
    x, y, z = kept
    return z, y, x


def spacing(values: Sequence[float], micrometres: float, name: str) -> Spacing:
    """Voxel size (z, y, x) in µm from lengths with x first, in units of so many micrometres.

    Raises
    ------
    InputError
        If they are not three positive lengths.
    """
    return check_voxel_size([v * micrometres for v in reversed(values[:3])], f"{name} (as stored)", InputError)


def file_beside(header: Path, name: str) -> Path:
    """Return the data file that a header names, if it is there and below the folder of the header.

    Raises
    ------
    InputError
        If the name leads out of the folder, also by a symbolic link, or nowhere: a header must not make us read any file.
    """
    root = header.parent.resolve()
    try:
        place = (header.parent / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{header} names the data file {name[:80]!r}, which is no file name: {error}") from None
    if not place.is_relative_to(root):
        raise InputError(
            f"{header} names the data file {name[:80]!r}, outside its folder {root}: data files are read inside it only; "
            "move both into one folder"
        )
    if not place.is_file():
        raise InputError(f"{header} names the data file {name[:80]!r}, which is not there: copy it beside the header")
    return place
