import jax
import numpy as np
import pytest

from visor_jax.sharding.batch_rows import (
    abstract_batch,
    process_rows,
    put_rows,
    split_rows,
)
from visor_jax.sharding.mesh import MeshSettings, make_mesh


def test_two_processes_load_one_half_each():
    assert split_rows({0: {0, 1}, 1: {2, 3}}, 8) == {0: slice(0, 4), 1: slice(4, 8)}


def test_processes_with_the_same_samples_load_the_same_rows():
    # A tensor axis of two processes: 0 and 1 share samples, as do 2 and 3.
    held = {0: {0}, 1: {0}, 2: {1}, 3: {1}}
    first, second = slice(0, 3), slice(3, 6)
    assert split_rows(held, 6) == {0: first, 1: first, 2: second, 3: second}


def test_devices_that_do_not_follow_one_another_still_get_one_range():
    # Hosts of 2 x 2 chips in a pod of 4 x 4, counted row by row.
    blocks = [{0, 1, 4, 5}, {2, 3, 6, 7}, {8, 9, 12, 13}, {10, 11, 14, 15}]
    rows = split_rows(dict(enumerate(blocks)), 32)
    assert rows == {i: slice(8 * i, 8 * i + 8) for i in range(4)}


def test_every_row_is_loaded_by_someone_whatever_the_order_of_processes():
    rows = split_rows({0: {2}, 1: {0}, 2: {1}}, 6)
    assert rows == {0: slice(4, 6), 1: slice(0, 2), 2: slice(2, 4)}


def test_samples_that_are_partly_shared_are_refused():
    with pytest.raises(ValueError, match="overlapping samples"):
        split_rows({0: {0, 1}, 1: {1, 2}}, 6)
    with pytest.raises(ValueError, match="overlapping samples"):
        split_rows({0: {0, 1}, 1: {2}}, 6)


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 4, 2)])
def test_one_process_loads_all_rows_and_puts_them_where_they_belong(shape):
    data, fsdp, tensor = shape
    mesh = make_mesh(MeshSettings(data=data, fsdp=fsdp, tensor=tensor))
    assert process_rows(mesh, 16) == slice(0, 16)
    batch = {"x": np.arange(48, dtype=np.float32).reshape(16, 3), "y": np.arange(16)}
    placed = put_rows(mesh, 16)(batch)
    np.testing.assert_array_equal(placed["x"], batch["x"])
    for shard in placed["x"].addressable_shards:
        np.testing.assert_array_equal(shard.data, batch["x"][shard.index])
    wanted = abstract_batch(mesh, batch)
    for name, array in placed.items():
        assert (array.shape, array.dtype) == (wanted[name].shape, wanted[name].dtype)
        assert array.sharding == wanted[name].sharding


def test_a_batch_that_does_not_split_is_refused():
    mesh = make_mesh(MeshSettings())
    with pytest.raises(ValueError, match="batch_size=6 does not split over the 8"):
        process_rows(mesh, 6)
    assert jax.process_count() == 1
