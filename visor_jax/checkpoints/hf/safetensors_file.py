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
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

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
    """Where one tensor lies: file, first byte, dtype and shape."""

    file: Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """Returns the tensor as an array of its own.

        Raises:
          ValueError: if the file has become shorter since its header was read.
        """
        array = np.empty(self.shape, self.dtype)
        with open(self.file, "rb", buffering=0) as file:
            file.seek(self.offset)
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
      ValueError: if the file is cut short, is no safetensors file, or holds a tensor
        that is not float32, float16 or bfloat16 (all of them are named).
    """
    path = Path(path)
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
            end = max((e["data_offsets"][1] for e in header.values()), default=0)
        except (ValueError, AttributeError, LookupError, TypeError) as error:
            raise _not_safetensors(path, f"its header is damaged: {error}") from error
    if size < start + end:
        raise _cut_short(path, size, start + end)
    return _infos(path, header, start)


def _infos(path: Path, header: Mapping[str, dict], start: int) -> dict[str, TensorInfo]:
    strange = {n: e.get("dtype") for n, e in header.items() if not _known(e)}
    if strange:
        raise ValueError(
            f"{path} holds tensors that are not one of {sorted(DTYPES)}: {strange}. "
            "Quantised checkpoints cannot be read: use the original one."
        )
    infos = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        info = TensorInfo(
            file=path,
            offset=start + begin,
            dtype=DTYPES[entry["dtype"]],
            shape=tuple(entry["shape"]),
        )
        if begin < 0 or end - begin != info.nbytes:
            raise _not_safetensors(path, f"{name!r} has {end - begin} bytes")
        infos[name] = info
    return infos


def _known(entry: dict) -> bool:
    return entry.get("dtype") in DTYPES


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
    temporary = Path(f"{path}.incomplete")
    with open(temporary, "wb") as file:
        file.write(len(encoded).to_bytes(_LENGTH_BYTES, "little") + encoded)
        for name, shape in shapes.items():
            array = np.ascontiguousarray(read(name), dtype).reshape(-1)
            if array.size != math.prod(shape):
                raise ValueError(f"{name} has {array.size} values, not shape {shape}.")
            file.write(array.view(np.uint8))
    temporary.replace(path)
