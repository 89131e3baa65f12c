"""Records what was run and on what, and refuses to mix two runs in one workdir.

config.json in the workdir:

    {"config": {...},                  the whole configuration
     "starts": [{"time", "git_commit", "versions", "machine", "changed"}, ...]}

with one entry in "starts" for the first start and for each time the run went on;
"changed" says with which other values, where there are any.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from etils import epath

from visor_jax.runtime import atomic_write
from visor_jax.runtime.agreement import code_digest
from visor_jax.runtime.machine import describe_start, git_commit, package_versions

CONFIG = "config.json"
DATA = "data.json"


def write_run_record(
    workdir: str | os.PathLike[str], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the record after writing it to config.json, atomically.

    A record that is there keeps its earlier starts. Call it on process 0 only, after
    `check_same_run`.

    Args:
      workdir: directory of the run, made if it is not there.
      config: the whole configuration as JSON values (`ConfigDict.to_dict()`).

    Raises:
      ValueError: if the configuration cannot be written as JSON.
    """
    file = Path(workdir) / CONFIG
    file.parent.mkdir(parents=True, exist_ok=True)
    before = _read(file) if file.exists() else {}
    start = describe_start()
    as_json = _as_json(config)
    old, new = _flatten(before.get("config", {})), _flatten(as_json)
    if before and (changes := _changes(old, new)):
        start["changed"] = {key: list(values) for key, values in changes.items()}
    record = {
        "config": as_json,
        "starts": [*before.get("starts", []), start],
    }
    atomic_write.write_json(file, record)
    return record


def write_data_record(
    workdir: str | os.PathLike[str], record: Mapping[str, Any]
) -> None:
    """Writes what the run reads to data.json, atomically. On process 0 only."""
    atomic_write.write_json(Path(workdir) / DATA, record)


def check_same_run(
    workdir: str | os.PathLike[str],
    config: Mapping[str, Any],
    *,
    may_change: Callable[[str], bool] = lambda key: False,
    earlier: Mapping[str, Any] | None = None,
    alike: Callable[[Mapping[str, Any]], dict[str, Any]] = dict,
) -> dict[str, tuple[str, str]]:
    """Returns what has changed and may: {dotted key: (old, new)}, as JSON texts.

    Nothing if the workdir is new or belongs to this very configuration.

    Args:
      workdir: directory of the run.
      config: as for `write_run_record`.
      may_change: whether a run may go on with another value of a dotted key.
      earlier: {dotted key: its value in a configuration that does not have it yet}.
      alike: from {dotted key: value} to the same with one value where several mean the
        same.

    Raises:
      ValueError: if config.json holds the configuration of another run; every key that
        must not change and has is listed with both values.
    """
    file = epath.Path(workdir) / CONFIG
    if not file.exists():
        return {}
    old, new = _flatten(_read(file).get("config", {})), _flatten(_as_json(config))
    unsaid = {key: value for key, value in (earlier or {}).items() if key in new}
    changes = _changes(alike({**unsaid, **old}), alike(new))
    refused = [
        f"\n  {key}: {old} -> {new}"
        for key, (old, new) in changes.items()
        if not may_change(key)
    ]
    if refused:
        raise ValueError(
            f"{workdir} belongs to a run of another configuration (old -> new):"
            + "".join(refused)
            + "\nUse another --workdir, or the old values to go on with that run."
        )
    return changes


def shared_facts(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns {what: text} of what must be the same on all processes of a run.

    Every value of the configuration by its dotted key, the code, the packages and the
    kind of device.
    """
    values = _flatten(_as_json(config), "config")
    devices = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    return {
        **{key: json.dumps(value) for key, value in values.items()},
        "code": f"{code_digest(Path(__file__).parents[1])} ({git_commit()})",
        **package_versions(),
        "devices": devices,
    }


def _read(file: Path | epath.Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(
            f"{file} is not readable ({error}): use another --workdir."
        ) from error


def _as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(config))
    except TypeError as error:
        raise ValueError(f"The configuration must be JSON values: {error}.") from error


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Returns {"dotted.key": value}; lists are values, not levels."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flatten(inner, f"{prefix}.{key}" if prefix else key)
    return flat


def _changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Returns {dotted key: (old, new)} of the values that differ, as JSON texts."""
    absent = object()
    return {
        key: (_show(old, key), _show(new, key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key, absent) != new.get(key, absent)
    }


def _show(flat: dict[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "(absent)"
