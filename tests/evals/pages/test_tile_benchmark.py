"""Tiled pages as a benchmark: sizes, rows, and the tiles of hard questions."""

import numpy as np
import pytest

from visor_jax.analysis.looks.choices import tiles_of_questions
from visor_jax.evals.benchmark import Benchmark
from visor_jax.evals.pages.tile_benchmark import TileBenchmark


@pytest.fixture(scope="module")
def tiles():
    return TileBenchmark.make(5, batch_size=2)


def test_it_is_a_benchmark_of_both_sizes(tiles):
    assert isinstance(tiles, Benchmark)
    examples = list(tiles.examples())
    assert len(examples) == len(tiles) == 5 * 8
    assert len({e.id for e in examples}) == 40
    assert [len(e.request.images[0]) for e in examples[::8]] == [96, 96, 96, 144, 144]
    packed = list(tiles.packed())
    assert [e.id for p in packed for e in p.examples] == [e.id for e in examples]
    assert {p.lengths.crops: p.lengths.image_tokens for p in packed} == {
        5: 192,
        10: 378,
    }
    with pytest.raises(ValueError, match="at least 2"):
        TileBenchmark.make(1)


def test_hard_examples_know_their_tiles(tiles):
    hard = tiles.groups["hard"]
    asked = [each for part in tiles.parts for each in tiles_of_questions(part)]
    ids = [example.id for example in tiles.examples()]
    found = {name: mine for name, mine in zip(ids, asked, strict=True) if mine}
    for example in tiles.examples():
        assert (example.id in found) == (example.task in hard)
        if example.task == "mark":
            # The only tile with a bright bar: of a screen no two neighbours are bright.
            page = example.request.images[0]
            bright = (page > 225).all(-1)
            both = np.nonzero(bright[:, 1:] & bright[:, :-1])
            y, x = (int(axis.mean()) for axis in both)
            grid = len(page) // 48
            assert found[example.id] == (1 + y // 48 * grid + x // 48,)
    counts = {e.task: len(found[e.id]) for e in tiles.examples() if e.id in found}
    assert counts == {"read": 1, "largest": 1, "mark": 1, "pair": 2}
