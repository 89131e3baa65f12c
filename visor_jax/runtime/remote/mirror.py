"""The small files of a folder in a bucket: written here, uploaded whole.

In a bucket a file cannot grow: what is appended would replace it, silently. So what a
run writes by and by (metrics, records, TensorBoard's events) and what libraries write
that know no buckets (pictures) lies in a folder of this machine, and each file that has
changed is uploaded in one piece. The bucket holds the old content or the new, whole.

    ~/.cache/visor_jax/buckets/BUCKET/FOLDER    of gs://BUCKET/FOLDER ($XDG_CACHE_HOME)

A start begins with what the bucket holds: what a process that was killed left here
without uploading it is dropped.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from etils import epath

from visor_jax.runtime import atomic_write
from visor_jax.runtime.compile_cache import user_cache
from visor_jax.runtime.ownership import is_of_an_owner, owned_folder
from visor_jax.runtime.remote import bucket
from visor_jax.runtime.remote.bucket_owner import owned_bucket_folder


class Mirror:
    """A folder of this machine that stands for one in a bucket.

    place: gs://... folder: of this machine; it need not be there.
    """

    def __init__(
        self, place: str | os.PathLike[str], *, apart: Collection[str] = ()
    ) -> None:
        """Reads and writes nothing yet.

        Args:
          apart: names in the folder that are neither fetched, uploaded nor removed.
        """
        parts = bucket.split(place)
        self.place = epath.Path(place)
        self.folder = user_cache().joinpath("buckets", *parts)
        self._apart = frozenset(apart)
        self._uploaded: dict[str, tuple[int, int]] = {}

    @contextlib.contextmanager
    def owned(self, remedy: str) -> Iterator[None]:
        """Inside, this process alone owns the place; it begins with `fetch`.

        Raises:
          TakenError: if another one does. UserError: if it cannot be used.
        """
        with owned_bucket_folder(self.place, self.folder, remedy=remedy):
            self.fetch()
            yield

    def fetch(self) -> None:
        """Makes the folder hold the bucket's files, and nothing else.

        Of the files of its folders none are fetched: they are only written.

        Raises:
          UserError: if they cannot be read.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for found in self.folder.iterdir():
            if self._is_apart(found):
                continue
            shutil.rmtree(found) if found.is_dir() else found.unlink()
        self._uploaded.clear()
        with bucket.naming(self.place):
            if not self.place.exists():
                return
            for found in self.place.iterdir():
                if self._is_apart(found) or found.is_dir():
                    continue
                local = self.folder / found.name
                atomic_write.write_bytes(local, found.read_bytes())
                self._uploaded[found.name] = _state(local)

    def upload(self) -> None:
        """Uploads the files that are new or have changed, those of folders as well.

        Raises:
          UploadError: if the bucket does not take one.
        """
        for file in sorted(self._files()):
            name = file.relative_to(self.folder).as_posix()
            state = _state(file)
            if self._uploaded.get(name) == state:
                continue
            try:
                (self.place / name).write_bytes(file.read_bytes())
            except Exception as error:
                said = " ".join(str(error).split())[:300] or type(error).__name__
                raise bucket.UploadError(
                    f"Uploading {file} to {self.place / name} failed ({said}). "
                    "Checkpoints finished before are intact: restore access, then run "
                    "the same command again."
                ) from error
            self._uploaded[name] = state

    def _files(self) -> Iterator[Path]:
        for found in self.folder.iterdir() if self.folder.exists() else ():
            if self._is_apart(found):
                continue
            inside = found.rglob("*") if found.is_dir() else [found]
            yield from (file for file in inside if file.is_file())

    def _is_apart(self, path: Path | epath.Path) -> bool:
        unfinished = path.name.endswith(atomic_write.ENDING)
        return path.name in self._apart or is_of_an_owner(path) or unfinished


def _state(file: Path) -> tuple[int, int]:
    """Returns what changes with a file's content."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns


@contextlib.contextmanager
def owned_place(
    place: str | os.PathLike[str],
    *,
    remedy: str = "Wait for it, stop it, or give another folder.",
    wait: Callable[[], None] | None = None,
) -> Iterator[Path]:
    """Yields a folder to write to, which this process alone owns; see `owned_folder`.

    That of a place in a bucket is empty at first and is uploaded at the end, unless
    something is raised.

    Raises:
      UploadError: if the bucket does not take it.
    """
    if not bucket.is_remote(place):
        with owned_folder(place, remedy=remedy, wait=wait):
            yield Path(place)
        return
    mirror = Mirror(place)
    with owned_bucket_folder(place, mirror.folder, remedy=remedy, wait=wait):
        _empty(mirror.folder)
        yield mirror.folder
        mirror.upload()


def _empty(folder: Path) -> None:
    for found in folder.iterdir():
        if not is_of_an_owner(found):
            shutil.rmtree(found) if found.is_dir() else found.unlink()
