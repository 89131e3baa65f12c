"""Rows by budget: sizes of groups, rows of several budgets, places that come free."""

import types

import pytest

from visor_jax.budget import Budget
from visor_jax.inference.engine.budget_groups import BudgetGroups, program_rows
from visor_jax.inference.routing.cascade import Cascade

NONE, ONE = Budget(), Budget((1,))


def row(requests):
    asked = types.SimpleNamespace(cascade=None)
    return types.SimpleNamespace(requests=(asked,) * requests)


def test_sizes_are_the_drawn_example():
    assert [program_rows(n, 8) for n in range(1, 10)] == [1, 2, 4, 4, 4, 8, 8, 8, 8]


@pytest.mark.parametrize("most", [1, 2, 16])
def test_no_size_pads_more_than_a_quarter(most):
    for waiting in range(1, 40):
        size = program_rows(waiting, most)
        assert size.bit_count() == 1
        assert size <= most
        assert 4 * min(waiting, most) >= 3 * size


def test_a_row_of_two_budgets_keeps_its_place_until_both_are_taken():
    groups = BudgetGroups(3)
    (first, second) = groups.take_places(2)
    groups.add(first, row(3), [ONE, NONE, ONE])
    groups.add(second, row(1), [ONE])
    assert groups.budgets() == [ONE, NONE]
    assert (len(groups), groups.free_places) == (3, 1)
    taken = groups.take(ONE, 2)
    assert [(m.place, m.indices) for m in taken] == [(first, (0, 2)), (second, (0,))]
    assert groups.free_places == 2
    (last,) = groups.take(NONE, 1)
    assert (last.place, last.indices) == (first, (1,))
    assert groups.free_places == 3
    assert groups.budgets() == []


def test_only_as_many_rows_as_their_questions_have_slots():
    groups = BudgetGroups(4)
    for place, requests in zip(groups.take_places(4), (2, 1, 3, 1), strict=True):
        groups.add(place, row(requests), [ONE] * requests)
    found = [groups.fitting(ONE, rows=8, requests=n) for n in range(9)]
    assert found == [0, 0, 1, 2, 2, 2, 3, 4, 4]
    assert groups.fitting(ONE, rows=2, requests=9) == 2


def of_cascade(*numbers):
    """Returns a row of a cascade's requests with these numbers."""
    cascade = Cascade(NONE, ONE, 0.5)
    asked = [types.SimpleNamespace(cascade=cascade, number=n) for n in numbers]
    return types.SimpleNamespace(requests=asked)


def test_a_row_keeps_its_place_until_the_answers_of_its_cascade_are_final():
    groups = BudgetGroups(2)
    (place,) = groups.take_places(1)
    groups.add(place, of_cascade(5, 6, 7), [NONE] * 3)
    groups.take(NONE, 1)
    assert (len(groups), groups.free_places, groups.is_busy) == (0, 1, True)
    groups.settle(6)
    assert groups.look_again(5, ONE)
    assert groups.look_again(7, ONE)
    assert not groups.look_again(8, ONE)
    # They wait together, so that their image goes through the layers once.
    assert (len(groups), groups.budgets()) == (1, [ONE])
    (again,) = groups.take(ONE, 1)
    assert (again.place, again.indices) == (place, (0, 2))
    # Nobody looks a third time.
    assert (groups.free_places, groups.is_busy) == (2, False)
    groups.settle(5)
    assert groups.free_places == 2


@pytest.mark.parametrize("looks_again", [False, True])
def test_dropped_requests_of_a_cascade_free_their_place(looks_again):
    groups = BudgetGroups(1)
    groups.add(groups.take_places(1)[0], of_cascade(5, 6), [NONE, NONE])
    groups.take(NONE, 1)
    if looks_again:
        groups.look_again(6, ONE)
    groups.drop({5})
    assert groups.free_places == 0
    groups.drop({6})
    assert (groups.free_places, groups.is_busy) == (1, False)
