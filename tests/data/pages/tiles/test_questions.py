"""Answers and tiles of every question, by another reading of the facts."""

import numpy as np
import pytest

from visor_jax.data.pages.tiles.facts import describe
from visor_jax.data.pages.tiles.questions import book_of
from visor_jax.data.pages.tiles.words import WORDS


def read(pool, page):
    """Returns {colour: (place, shape, left, right, tile)} and the mark, from text."""
    *lines, mark = describe(pool.facts[page])
    found = {}
    for tile, line in enumerate(lines):
        place, rest = line.split(": ")
        colour, shape, digits = rest.split(", ")
        left, right = digits.split()
        found[colour] = {
            "where": place,
            "shape": shape,
            "left": left,
            "right": right,
            "tile": tile,
        }
    side, place = mark.removeprefix("marked: ").split(" of ")
    return found, (side, place)


def expected(text, tiles, mark):
    """Returns the answer and the tiles that hold it."""
    words = text.split()
    if words[0] == "tiles":
        return str(len(tiles)), None
    if words[0] in ("where", "shape"):
        return tiles[words[1]][words[0]], None
    if words[0] == "colour":
        place = " ".join(words[1:])
        return next(c for c, t in tiles.items() if t["where"] == place), None
    if words[0] == "marked":
        tile = next(t for t in tiles.values() if t["where"] == mark[1])
        return tile[mark[0]], [tile["tile"]]
    sides = [w for w in words if w in ("left", "right")] or ["left", "right"]
    asked = [tiles[w] for w in words if w in tiles]
    digits = [tile[side] for tile in asked for side in sides]
    assert words[0] == ("digit" if len(digits) == 1 else "largest")
    return max(digits), [tile["tile"] for tile in asked]


@pytest.mark.parametrize("grid", [2, 3])
def test_answers_and_tiles_are_those_of_the_facts(pools, grid):
    pool, book = pools[grid], book_of(grid)
    table = book.answers(pool.facts)
    for page in range(10):
        found = read(pool, page)
        facts = pool.facts[page : page + 1]
        for number, question in enumerate(book.questions):
            answer, tiles = expected(question.text, *found)
            assert WORDS.tokens[table[page, number]] == answer, question.text
            hard = book.tasks[book.question_task[number]].group == "hard"
            assert (question.tiles is not None) == hard == (tiles is not None)
            if hard:
                assert question.tiles(facts)[0].tolist() == tiles


def test_half_of_the_tasks_are_hard_and_sizes_share_words():
    small, large = book_of(2), book_of(3)
    assert small.task_names == large.task_names
    assert {g: len(names) for g, names in small.groups.items()} == {
        "easy": 4,
        "hard": 4,
    }
    assert len(WORDS.tokens) == len(set(WORDS.tokens)) <= 64
    assert (len(small.questions), len(large.questions)) == (38, 123)


def test_no_answer_is_right_for_most_pages(pools):
    rng = np.random.default_rng(0)
    from visor_jax.data.pages.tiles.facts import draw_record

    facts = np.stack([draw_record(3, rng) for _ in range(2000)])
    answers, book = book_of(3).answers(facts), book_of(3)
    for number in np.flatnonzero(book.question_task >= 4):
        share = np.bincount(answers[:, number]).max() / len(facts)
        assert share < 0.23, book.questions[number].text
