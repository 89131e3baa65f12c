"""Converts LLaVA-style sources to shards of raw samples, in several processes.

    sources -> pieces -> one shard per piece (worker processes) -> manifest

It can be stopped at any time: the same call goes on with the shards that are missing.
Nothing is a data set before the manifest is there, which is written last.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import json
import multiprocessing
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from visor_jax.data.conversations.converting.item_checks import REASONS, ImageFolder
from visor_jax.data.conversations.converting.shard_writing import (
    REPORTS,
    Report,
    finished_report,
    write_shard,
)
from visor_jax.data.conversations.converting.sources import (
    Piece,
    count_entries,
    find_sources,
    pieces_of,
)
from visor_jax.data.conversations.manifest import (
    BAD_ITEMS,
    FORMAT,
    Manifest,
    is_converted,
    read_manifest,
    write_manifest,
)
from visor_jax.runtime import atomic_write
from visor_jax.runtime.ownership import is_of_an_owner, owned_folder

_IDENTITY = "sources.json"
# Pieces that wait for each worker: enough to keep it busy, few enough to fit in memory.
_WAITING = 2

# Entries done, entries in all.
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionSettings:
    """What to convert, and how it is cut.

    sources: JSON, JSONL or parquet files, or folders of parquet files. image_folder:
    what images are named from; allow_outside: whether a name or a link may lead out of
    it. rows_per_shard: entries that become one shard.
    """

    sources: tuple[str, ...]
    image_folder: str | None = None
    allow_outside: bool = False
    rows_per_shard: int = 2000

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("There are no sources to convert.")
        if self.rows_per_shard < 1:
            raise ValueError(f"{self.rows_per_shard=} must be at least 1.")
        if self.image_folder is not None and not Path(self.image_folder).is_dir():
            raise ValueError(f"There is no image folder {self.image_folder}.")


def convert(
    settings: ConversionSettings,
    out: str | Path,
    *,
    processes: int = 1,
    progress: Progress = lambda done, total: None,
) -> Manifest:
    """Returns the manifest of the converted data, written to the folder `out`.

    Args:
      out: new, empty, or with a conversion of the same sources that was stopped.
      processes: that decode images; 1 works in this one.
      progress: called with the entries done and the entries in all.

    Raises:
      ValueError: if sources cannot be read as a whole, `out` holds something else, or
        no entry is good. Single bad entries are listed and left out.
      TakenError: if another process converts to `out`.
    """
    if processes < 1:
        raise ValueError(f"{processes=} must be at least 1.")
    directory = Path(out).absolute()
    remedy = "Wait for it, stop it, or give another --out."
    with owned_folder(directory, remedy=remedy):
        return _convert(settings, directory, processes, progress)


def _convert(
    settings: ConversionSettings, directory: Path, processes: int, progress: Progress
) -> Manifest:
    """Returns what `convert` does, in a folder that is this process's own."""
    _check_free(directory)
    files = find_sources(settings.sources)
    counts = {file: count_entries(file) for file in files}
    _begin(directory, settings, files)
    folder = None
    if settings.image_folder is not None:
        folder = ImageFolder(
            Path(settings.image_folder).absolute(), settings.allow_outside
        )
    pieces = enumerate(
        itertools.chain.from_iterable(
            pieces_of(file, settings.rows_per_shard) for file in files
        )
    )
    total, done, reports = sum(counts.values()), 0, {}
    progress(0, total)
    for number, report in _reports(directory, pieces, folder, processes):
        reports[number] = report
        done += report["entries"]
        progress(done, total)
    ordered = [reports[number] for number in sorted(reports)]
    return _finish(directory, ordered, counts)


def _check_free(directory: Path) -> None:
    if is_converted(directory):
        raise ValueError(
            f"{directory} holds a converted data set already: give another --out, or "
            "delete it."
        )
    begun = (directory / REPORTS).exists()
    content = [file for file in directory.iterdir() if not is_of_an_owner(file)]
    if content and not begun:
        raise ValueError(f"{directory} is not empty: give a new folder.")


def _begin(
    directory: Path, settings: ConversionSettings, files: Sequence[Path]
) -> None:
    """Writes down what is converted here, or checks that it is the same as before."""
    states = [(file, file.stat()) for file in files]
    identity = {
        "format": FORMAT,
        "sources": [[str(f), s.st_size, s.st_mtime_ns] for f, s in states],
        "image_folder": settings.image_folder,
        "rows_per_shard": settings.rows_per_shard,
    }
    if settings.allow_outside:
        identity["allow_outside"] = True
    file = directory / REPORTS / _IDENTITY
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write.write_json(file, identity)
    elif json.loads(file.read_text()) != identity:
        raise ValueError(
            f"{directory} holds an unfinished conversion of other sources, or with "
            "other settings: delete it, or give another --out."
        )


def _reports(
    directory: Path,
    pieces: Iterable[tuple[int, Piece]],
    folder: ImageFolder | None,
    processes: int,
) -> Iterator[tuple[int, Report]]:
    """Yields (number, report) of every shard, those that were finished before too."""
    if processes == 1:
        for number, piece in pieces:
            report = finished_report(directory, number)
            yield (
                number,
                report or write_shard(directory, number, piece, folder),
            )
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        processes,
        # Forked threads of other libraries would hang.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_ignore_interrupts,
    )
    try:
        waiting: collections.deque[tuple[int, Any]] = collections.deque()
        for number, piece in pieces:
            report = finished_report(directory, number)
            if report is not None:
                yield number, report
                continue
            task = pool.submit(write_shard, directory, number, piece, folder)
            waiting.append((number, task))
            if len(waiting) >= _WAITING * processes:
                number, task = waiting.popleft()
                yield number, task.result()
        for number, task in waiting:
            yield number, task.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "A worker was killed, perhaps for lack of memory: the same command goes on "
            "from here; give it fewer --processes or smaller --rows_per_shard."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    # Ctrl-C goes to the whole group; the parent alone decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _finish(
    directory: Path, reports: Sequence[Report], counts: dict[Path, int]
) -> Manifest:
    """Returns the manifest after writing it, and the bad items beside it."""
    bad = [line for report in reports for line in report["bad"]]
    shards = [report["shard"] for report in reports if report["shard"]]
    reasons = collections.Counter(line["reason"] for line in bad)
    by_reason = {r: reasons[r] for r in REASONS if r in reasons}
    if not shards:
        raise ValueError(f"None of {len(bad)} entries is a good sample: {by_reason}.")
    lines = "".join(json.dumps(line) + "\n" for line in bad)
    atomic_write.write_text(directory / BAD_ITEMS, lines)
    facts = [report["facts"] for report in reports]
    sizes = [tuple(size) for each in facts for size in each["image_sizes"]]
    sizes.sort(key=lambda size: (size[0] * size[1], size))
    summed = ["text_only", "images", "image_bytes"]
    # Shards of a conversion that began before these were counted do not say.
    if all("special_text" in each for each in facts):
        summed.append("special_text")
    write_manifest(
        directory,
        shards,
        {
            **{name: sum(each[name] for each in facts) for name in summed},
            "image_sizes": {"smallest": sizes[:1], "largest": sizes[-1:]},
            "bad_items": {
                "total": len(bad),
                "reasons": by_reason,
                "file": BAD_ITEMS,
            },
            "sources": [
                {"file": str(file), "bytes": file.stat().st_size, "entries": count}
                for file, count in counts.items()
            ],
        },
    )
    shutil.rmtree(directory / REPORTS)
    return read_manifest(directory)
