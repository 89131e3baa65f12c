"""Reads a file of JSON that came with a download: an object, or a clear error."""

import json
from pathlib import Path
from typing import Any

from visor_jax.runtime.lfs_pointer import check_not_pointer


def read_json_object(file: Path) -> dict[str, Any]:
    """Returns the object in a JSON file. Raises ValueError if there is none."""
    check_not_pointer(file)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}): download it again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} is damaged (no object): download it again.")
    return found
