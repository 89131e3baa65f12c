"""Where a picture goes: a file of a form that Pillow writes, replaced in one step."""

from pathlib import Path

from PIL import Image

from visor_jax.runtime import atomic_write, output_place


def check_place(out: str) -> Path:
    """Returns the path of a picture that can be written.

    Raises:
      ValueError: if there is something else of that name, or its ending is none of a
        picture.
    """
    path = output_place.check_file(out, "--out")
    if _form(path) not in Image.SAVE:
        raise ValueError(f"--out={out} ends like no picture: name it {path.stem}.png.")
    return path


def save(picture: Image.Image, path: Path) -> None:
    """Writes the picture in the form of the file's ending.

    Raises:
      OSError: with the file's name, if the disk does not take it.
    """
    form = _form(path)
    atomic_write.write_file(path, lambda stream: picture.save(stream, format=form))


def _form(path: Path) -> str | None:
    return Image.registered_extensions().get(path.suffix.lower())
