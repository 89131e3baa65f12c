"""Buckets (gs://BUCKET/...): the file system for them, and whether one can be used.

`etils.epath` and orbax read and write them through the package gcsfs, tensorstore by
itself, with the same credentials. What gcsfs says of a bucket is turned into one line
with a remedy, before any work.
"""

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from typing import Any

from visor_jax.runtime.user_error import UserError

SCHEME = "gs://"
_ROLE = "roles/storage.objectUser"

# Buckets that this process has asked, each of them once.
_usable: set[str] = set()


class UploadError(RuntimeError):
    """A file could not be uploaded; what the bucket held before is still there."""


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Returns whether `path` is not of this machine's file system (gs://bucket/...)."""
    return "://" in os.fspath(path)


def split(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Returns ("bucket", "a/b") of gs://bucket/a/b.

    Raises:
      UserError: if it is of another kind of storage, or names no bucket.
    """
    text = os.fspath(path)
    if not text.startswith(SCHEME):
        raise UserError(
            f"{text} is not on this machine: of what is not, only Google Cloud Storage "
            "(gs://BUCKET/...) is read and written; copy the files, or mount them."
        )
    bucket, _, name = text.removeprefix(SCHEME).partition("/")
    if not bucket:
        raise UserError(f"{text} names no bucket: gs://BUCKET/FOLDER is needed.")
    return bucket, name.strip("/")


def file_system() -> Any:
    """Returns the fsspec file system of buckets, the one that epath uses.

    Raises:
      UserError: if gcsfs is not installed.
    """
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(
            "gs:// needs the package gcsfs: pip install -e '.[gcs]' (or mount the "
            "bucket with gcsfuse, and name the folder)."
        )
    import fsspec

    # Others write as well, tensorstore in this very process: what was listed once may
    # have changed since.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    # It logs tracebacks of what it raises as well.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    return fsspec.filesystem("gcs", finalize_on_close=True)


def check_bucket(path: str | os.PathLike[str]) -> None:
    """Does nothing if the bucket is there and may be listed.

    Asks once in a process, for each bucket.

    Raises:
      UserError: if it cannot be used, with the remedy.
    """
    bucket, _ = split(path)
    files = file_system()
    if bucket in _usable:
        return
    with naming(path):
        files.call("GET", "b/{}/o", bucket, maxResults="1", json_out=True)
    _usable.add(bucket)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str], *, verb: str = "read") -> Iterator[None]:
    """Turns what storage refuses inside into a `UserError` with the remedy.

    verb: what is not allowed where access is denied: "read" or "write".
    """
    bucket, _ = split(path)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(_told(os.fspath(path), bucket, error, verb)) from error


def _told(path: str, bucket: str, error: Exception, verb: str) -> str:
    code = _code(error)
    if code == 404:
        return (
            f"{path}: there is no bucket {bucket!r}: mend the name, or make it "
            f"(gcloud storage buckets create {SCHEME}{bucket})."
        )
    if code == 401 or _is_about_credentials(error):
        return (
            f"{path}: no credentials that the bucket {bucket!r} takes were found: "
            "gcloud auth application-default login, or "
            "GOOGLE_APPLICATION_CREDENTIALS=FILE of a service account."
        )
    if code == 403:
        return (
            f"{path}: this account may not {verb} objects of the bucket {bucket!r}: "
            f"give it the role {_ROLE} there."
        )
    said = " ".join(str(error).split())[:300] or type(error).__name__
    return f"{path} cannot be reached ({said}): see to the network and try again."


def _code(error: Exception) -> int | None:
    """Returns the HTTP status that an error of gcsfs stands for."""
    if isinstance(error, FileNotFoundError):
        return 404
    if isinstance(error, OSError) and str(error).startswith("Forbidden"):
        return 403
    code = str(getattr(error, "code", ""))
    return int(code) if code.isdecimal() else None


def _is_about_credentials(error: Exception) -> bool:
    return type(error).__module__.startswith("google.auth")
