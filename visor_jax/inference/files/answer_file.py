"""Answers in a file of JSON lines, and what they are answers to.

    {"id": "a7", "answer": "4", "budget": "sa1:3", "flops": {...}, "ms": 12.1, ...}
    {"id": 9, "answer": "7", "budget": "sa3:1,3,5", "confidence": 0.93,
     "looks": [{"budget": "sa0", "confidence": 0.41}, ...], ...}     of a cascade
    {"id": 4, ..., "looked_at": {"asked": "base", "crops": [0], ...}}    of some crops
    {"id": 5, ..., "looked_at": {"asked": "auto@0.8", "crops": [0, 1, 2, ...], ...},
     "confidence": 0.93, "first_look": {"crops": [0], "confidence": 0.41}}
    {"id": 2, "error": "Cannot read the image 'a.jpg': there is no such file; ..."}

An answer is in the file as soon as it is known, in the order in which they are known; a
run that was stopped goes on with what is missing. Every line holds the digest of its
request ("request"), and FILE.settings.json beside the file what all answers depend on:
a run that would answer otherwise is refused, so that a file never mixes two runs. So is
one whose pictures are others ("images", a digest of their contents). Who writes a file
owns it meanwhile (`runtime.ownership`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visor_jax.inference.answers import Answer
from visor_jax.inference.files.answer_flops import flops_of
from visor_jax.inference.files.picture_files import digest_of
from visor_jax.inference.files.request_file import Id, RequestEntry
from visor_jax.look_cascade import is_look_cascade
from visor_jax.models.decoder.token_reducer import (
    KEEP_ALL,
)
from visor_jax.models.vlm import VLM
from visor_jax.runtime import atomic_write, disk_errors, output_place
from visor_jax.token_reduction.registry import name_of

# What all answers of a file depend on: JSON values by name.
Settings = Mapping[str, Any]
_REMEDY = "choose another --output, or --overwrite the file"


class AnswerFile:
    """Context manager that adds answers to a file, one line each, flushed at once.

    done: ids that the file has answers to. failed: how many of those are errors.
    """

    def __init__(
        self,
        path: Path,
        digests: Mapping[Id, str],
        settings: Settings,
        *,
        pictures: Mapping[Id, Sequence[str]] | None = None,
        settings_path: Path | None = None,
        overwrite: bool = False,
        retry_errors: bool = False,
    ) -> None:
        """Reads what is there; changes nothing before the file is entered.

        A last line that was only half written goes.

        Args:
          digests: of all requests, by id.
          settings: what the answers depend on beside their requests.
          pictures: the files of all requests' images, by id.
          settings_path: the file beside it; None for `<path>.settings.json`.
          overwrite: whether what is there goes. retry_errors: whether errors go.

        Raises:
          ValueError: for a file of something else, of other requests or settings, and
            for what is no file.
          OSError: if it cannot be read.
        """
        self._path, self._settings = path, dict(settings)
        output_place.check_file(path, "--output")
        self._pictures = dict(pictures or {})
        beside = path.with_name(path.name + ".settings.json")
        self.settings_path = settings_path or beside
        self._kept: list[bytes] = []
        self.done: set[Id] = set()
        self.failed = 0
        content = path.read_bytes() if path.exists() and not overwrite else b""
        if content:
            self._check_settings()
        # Whatever has no line break at its end was being written when the run ended.
        whole = content[: content.rfind(b"\n") + 1]
        for number, text in enumerate(whole.splitlines(keepends=True), 1):
            record = self._record(number, text)
            if not (retry_errors and is_error(record)):
                self._check(number, record, digests)
                self._kept.append(text)
                self._count(record)
        self._is_as_kept = not overwrite and b"".join(self._kept) == content

    def __enter__(self) -> "AnswerFile":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._is_as_kept or not self._path.exists():
            atomic_write.write_bytes(self._path, b"".join(self._kept))
        # Never after an answer of theirs, and never beside answers of others.
        settings = json.dumps(self._settings, indent=2, sort_keys=True) + "\n"
        atomic_write.write_text(self.settings_path, settings)
        self._file = self._path.open("ab")
        return self

    def __exit__(self, *_: object) -> None:
        with disk_errors.naming(self._path):
            self._file.close()

    def write(self, record: dict[str, Any]) -> None:
        """Adds a line, which survives whatever happens to the program afterwards.

        Raises OSError with the file's name if the disk does not take it; what was
        written of the line is passed over by the next reader.
        """
        text = json.dumps(record, ensure_ascii=False) + "\n"
        # Halves of characters, which JSON may hold, stay the escapes that they were.
        with disk_errors.naming(self._path):
            self._file.write(text.encode(errors="backslashreplace"))
            self._file.flush()
        self._count(record)

    def _count(self, record: dict[str, Any]) -> None:
        self.done.add(record["id"])
        self.failed += is_error(record)

    def _check_settings(self) -> None:
        try:
            before = dict(json.loads(self.settings_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{self._path} is not empty, and {self.settings_path.name}, which says "
                f"how its answers were made, cannot be read beside it: {_REMEDY}."
            ) from error
        # As they are after a way through JSON: tuples are lists there.
        now = json.loads(json.dumps(self._settings))
        changed = [
            f"{name} was {json.dumps(before.get(name))}, now "
            f"{json.dumps(now.get(name))}"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        if changed:
            raise ValueError(
                f"{self._path} was answered otherwise: {'; '.join(changed)}. Give the "
                f"same settings again, {_REMEDY}."
            )

    def _record(self, number: int, text: bytes) -> dict[str, Any]:
        try:
            record = json.loads(text)
            hash(record["id"])
            return record
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{self._path}, line {number} is no answer of this command: {_REMEDY}."
            ) from error

    def _check(
        self, number: int, record: dict[str, Any], digests: Mapping[Id, str]
    ) -> None:
        line_id, where = record["id"], f"{self._path}, line {number}"
        if line_id not in digests or line_id in self.done:
            raise ValueError(
                f"{where} answers id {line_id!r}, which is not in the input or already "
                f"answered: {_REMEDY}."
            )
        if record.get("request") != digests[line_id]:
            retry = (
                " (or --retry_errors, if you mended it)" if "error" in record else ""
            )
            raise ValueError(
                f"{where} answers another request of id {line_id!r}: its images or its "
                f"prompt were not those of the input: {_REMEDY}{retry}."
            )
        # Answers of before have none, and a picture that is gone is no other one.
        files = self._pictures.get(line_id, ())
        now = digest_of(files) if record.get("images") is not None else None
        if now is not None and now != record["images"]:
            raise ValueError(
                f"{where} answers id {line_id!r} about other pictures: "
                f"{', '.join(files):.200} changed since then; put back what they "
                f"were, {_REMEDY}."
            )


def is_error(record: Mapping[str, Any]) -> bool:
    """Returns whether a line says why there is no answer."""
    return record.get("error") is not None


def check_apart(source: Path, output: Path) -> None:
    """Raises ValueError if both names are of one file, through links or not."""
    same = source.resolve() == output.resolve()
    if source.exists() and output.exists():
        same |= source.samefile(output)
    if same:
        raise ValueError(
            f"--output={output} is the input itself: answers would be written into "
            "the requests; choose another --output."
        )


def record_of(entry: RequestEntry, answer: Answer, model: VLM) -> dict[str, Any]:
    """Returns the line of an answer or of the request's error."""
    if answer.error is not None:
        return error_of(entry, answer.error)
    pictures = digest_of(entry.pictures)
    return {
        "id": entry.id,
        "answer": answer.text,
        "budget": answer.budget.name,
        **_looks_of(answer),
        **({} if answer.looked_at is None else {"looked_at": answer.looked_at}),
        **first_look_of(answer),
        **({} if model.reducer == KEEP_ALL else {"reduce": name_of(model.reducer)}),
        "flops": flops_of(answer, model),
        "ms": round(1000 * answer.seconds, 3),
        "image_reused": bool(answer.crops) and not answer.encoded,
        "request": entry.digest,
        **({} if pictures is None else {"images": pictures}),
    }


def _looks_of(answer: Answer) -> dict[str, Any]:
    """Returns what a cascade's answer has beside those of others."""
    if not answer.looks:
        return {}
    looks = [
        {"budget": each.budget.name, "confidence": each.confidence}
        for each in answer.looks
    ]
    return {"confidence": answer.confidence, "looks": looks}


def first_look_of(answer: Answer) -> dict[str, Any]:
    """Returns what an answer has whose crops were a cascade ("auto@0.8")."""
    if answer.looked_at is None or not is_look_cascade(answer.looked_at["asked"]):
        return {}
    found, before = {"confidence": answer.confidence}, answer.first_look
    if before is not None:
        said = {"crops": before.looked_at["crops"], "confidence": before.confidence}
        found["first_look"] = said
    return found


def error_of(entry: RequestEntry, reason: str) -> dict[str, Any]:
    """Returns the line of a request that cannot be answered."""
    return {"id": entry.id, "error": reason, "request": entry.digest}
