"""Shapes in annotations speak the language of `visor_jax.axes`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from visor_jax import axes

PACKAGE = Path(axes.__file__).parent
# A letter stands before its meaning, two spaces between them.
LETTERS = re.findall(r"(?<!\S)([A-Z])  (?=\w)", axes.__doc__)
# Any number of axes (...), sizes (3), names in small letters (taps).
_LOCAL = re.compile(r"\.{3}|\d+|[a-z_]+|\{[a-z_]+\}")


def shapes(tree: ast.AST) -> Iterator[str]:
    """Yields the shapes of jaxtyping's annotations: "B T" of `Float[Array, "B T"]`."""
    kinds = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "jaxtyping"
        for alias in node.names
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
            continue
        is_array = node.value.id in kinds and isinstance(node.slice, ast.Tuple)
        if is_array and isinstance(node.slice.elts[-1], ast.Constant):
            yield node.slice.elts[-1].value


def unknown(shape: str) -> list[str]:
    """Returns the names in a shape that are neither letters of the glossary nor local.

    Letters together are a product.
    """
    words = [word.removeprefix("*") for word in shape.split()]
    return [w for w in words if not _LOCAL.fullmatch(w) and set(w) - set(LETTERS)]


def test_every_letter_means_one_thing():
    assert sorted(set(LETTERS)) == sorted(LETTERS)
    assert set("BTVQMNKH") <= set(LETTERS)


def test_annotations_use_the_letters_of_the_glossary():
    found = [
        (path.relative_to(PACKAGE).as_posix(), shape)
        for path in PACKAGE.rglob("*.py")
        for shape in shapes(ast.parse(path.read_text()))
    ]
    assert len(found) > 300
    assert not [(path, shape) for path, shape in found if unknown(shape)]


@pytest.mark.parametrize(
    ("annotation", "names"),
    [
        ("Float[Array, 'B T D']", []),
        ("Float[Array, '*B NH 3 {height} new_rows']", []),
        ("Int[Array, 'B J']", ["J"]),
        ("Int[Array, 'B NJ Tokens']", ["NJ", "Tokens"]),
        ("dict[str, 'Batch']", []),
    ],
)
def test_a_planted_letter_is_found(annotation, names):
    source = f"from jaxtyping import Float, Int\nx: {annotation}"
    found = [name for shape in shapes(ast.parse(source)) for name in unknown(shape)]
    assert found == names
