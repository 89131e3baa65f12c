"""One safetensors file: its table of contents, and its tensors one at a time.

    8 bytes    length N of the header, little endian
    N bytes    JSON {name: {"dtype", "shape", "data_offsets": [begin, end]}, ...}
    the rest   the tensors' bytes, row-major; offsets count from here

Read and written with plain file calls rather than a memory map, whose pages would count
as memory of this process beside the arrays that are made of them. Format:
https://huggingface.co/docs/safetensors.
"""

import dataclasses
import json
import math
import operator
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from visor_jax.runtime import atomic_write
from visor_jax.runtime.lfs_pointer import check_not_pointer

DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LENGTH_BYTES = 8
# The limit of the reference implementation; more than this is not a header.
_MAX_HEADER_BYTES = 100_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Where one tensor lies, and as what.

    offset: of its first byte. stored_as: the dtype as the header spells it; files hold
    constants of dtypes that no parameter has.
    """

    file: Path
    offset: int
    nbytes: int
    stored_as: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype | None:
        """The dtype of the array, None if it is not one of DTYPES."""
        return DTYPES.get(self.stored_as)

    def read(self, rows: slice = slice(None)) -> np.ndarray:
        """Returns the tensor as an array of its own; or some of it.

        Args:
          rows: a range of the first axis, which alone is read from the file.

        Raises:
          ValueError: for a dtype that is not one of DTYPES, or if the file has become
            shorter since its header was read.
        """
        if self.dtype is None:
            raise ValueError(
                f"{self.file} holds a tensor of dtype {self.stored_as}, which is not "
                f"one of {sorted(DTYPES)}."
            )
        shape, offset = self.shape, self.offset
        if shape:
            start, stop, _ = rows.indices(shape[0])
            shape = (stop - start, *shape[1:])
            offset += start * math.prod(shape[1:]) * self.dtype.itemsize
        array = np.empty(shape, self.dtype)
        with open(self.file, "rb", buffering=0) as file:
            file.seek(offset)
            _fill(file, memoryview(array.reshape(-1).view(np.uint8)), self.file)
        return array


def _fill(file, buffer: memoryview, path: Path) -> None:
    # One call reads at most 2 GiB.
    while len(buffer):
        count = file.readinto(buffer)
        if not count:
            raise ValueError(f"{path} became shorter while it was read: try again.")
        buffer = buffer[count:]


def read_header(path: str | os.PathLike) -> dict[str, TensorInfo]:
    """Returns {name: info} of every tensor of a file, whose size is checked.

    Raises:
      ValueError: if the file is cut short, is no safetensors file, or only stands in
        the place of one (git-lfs).
    """
    path = Path(path)
    check_not_pointer(path)
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        start = _LENGTH_BYTES + length
        if size >= _LENGTH_BYTES and length > _MAX_HEADER_BYTES:
            raise _not_safetensors(path, f"its header would have {length} bytes")
        if size < max(start, _LENGTH_BYTES + 2):
            raise _cut_short(path, size, start)
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            infos = {name: _info(path, start, e) for name, e in header.items()}
        except (ValueError, AttributeError, LookupError, TypeError) as error:
            raise _not_safetensors(
                path, f"its header is damaged: {error!r:.200}"
            ) from error
    for name, info in infos.items():
        if info.offset < start or not _fits(info):
            raise _not_safetensors(path, f"{name!r} has {info.nbytes} bytes")
    end = max((info.offset + info.nbytes for info in infos.values()), default=start)
    if size < end:
        raise _cut_short(path, size, end)
    return infos


def _info(path: Path, start: int, entry: Mapping[str, Any]) -> TensorInfo:
    """Returns one entry of the header; whatever it lacks raises."""
    begin, end = map(operator.index, entry["data_offsets"])
    shape = tuple(map(operator.index, entry["shape"]))
    if min(shape, default=0) < 0:
        raise ValueError(f"{shape=} has a negative size")
    return TensorInfo(
        file=path,
        offset=start + begin,
        nbytes=end - begin,
        stored_as=str(entry["dtype"]),
        shape=shape,
    )


def _fits(info: TensorInfo) -> bool:
    if info.dtype is None:
        return info.nbytes >= 0
    return info.nbytes == math.prod(info.shape) * info.dtype.itemsize


def _cut_short(path: Path, size: int, expected: int) -> ValueError:
    return ValueError(
        f"{path} is cut short: it has {size} bytes and should have {expected} or more. "
        "The download was not finished: delete the file and download it again."
    )


def _not_safetensors(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is no safetensors file ({reason}): download it again. Other formats "
        "are not read."
    )


def write_file(
    path: str | os.PathLike,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: np.dtype,
    read: Callable[[str], np.ndarray],
) -> None:
    """Writes a file whose tensors `read(name)` hands out one after the other.

    The tensors lie in the order of `shapes`. The file appears under its name only when
    it is complete.

    Args:
      shapes: of every tensor, by name.
      dtype: of the file; a tensor of another dtype is cast.

    Raises:
      ValueError: for a dtype that is not written, or a tensor of another shape.
    """
    dtype = np.dtype(dtype)
    if dtype not in _NAMES:
        raise ValueError(f"{dtype=} is not one of {[str(d) for d in _NAMES]}.")
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        entry = {"dtype": _NAMES[dtype], "shape": list(shape)}
        header[name] = {**entry, "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _LENGTH_BYTES)

    def write(file: BinaryIO) -> None:
        file.write(len(encoded).to_bytes(_LENGTH_BYTES, "little") + encoded)
        for name, shape in shapes.items():
            array = np.ascontiguousarray(read(name), dtype).reshape(-1)
            if array.size != math.prod(shape):
                raise ValueError(f"{name} has {array.size} values, not shape {shape}.")
            file.write(array.view(np.uint8))

    atomic_write.write_file(path, write)
