import grain
import numpy as np
import pytest

from visor_jax.data.row_range import batched_range

STEPS, BATCH = 5, 6


def batches(rows):
    of_run = grain.MapDataset.range(7).shuffle(seed=3).repeat()[: STEPS * BATCH]
    wanted, size = batched_range(of_run, BATCH, rows)
    return iter(wanted.batch(size).to_iter_dataset())


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_the_ranges_of_all_processes_make_up_every_batch(parts):
    size = BATCH // parts
    iterators = [batches(slice(i * size, (i + 1) * size)) for i in range(parts)]
    for whole in batches(None):
        pieces = [next(iterator) for iterator in iterators]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)
    assert all(next(iterator, None) is None for iterator in iterators)


def test_a_place_counts_batches_whatever_the_range():
    whole, part = batches(None), batches(slice(2, 4))
    for _ in range(3):
        next(whole)
        next(part)
    assert whole.get_state() == part.get_state() == {"next_index": 3}
    fresh = batches(slice(4, 6))
    fresh.set_state(whole.get_state())
    assert next(fresh).tolist() == next(whole).tolist()[4:]


@pytest.mark.parametrize("rows", [slice(0, 7), slice(3, 3), slice(-1, 2)])
def test_what_is_no_range_of_a_batch_is_refused(rows):
    with pytest.raises(ValueError, match="rows=slice"):
        batched_range(range(12), BATCH, rows)


def test_a_stride_is_refused():
    with pytest.raises(ValueError, match="not a range"):
        batched_range(range(12), BATCH, slice(0, 6, 2))
