import numpy as np
import pytest

from visor_jax.data.pages.pool import pool as pool_module
from visor_jax.data.pages.pool import worker
from visor_jax.data.pages.pool.pool import make_pool


def assert_same(first, second):
    np.testing.assert_array_equal(first.pages, second.pages)
    np.testing.assert_array_equal(first.facts, second.facts)


def test_page_does_not_depend_on_the_size_of_the_pool(pool):
    small = make_pool("train", 7, seed=5)
    np.testing.assert_array_equal(small.pages, pool.pages[:7])
    np.testing.assert_array_equal(small.facts, pool.facts[:7])


def test_seed_and_split_change_every_page(pool):
    for other in (make_pool("train", 3, seed=6), make_pool("test", 3, seed=5)):
        same = (other.pages == pool.pages[:3]).all(axis=(1, 2, 3))
        assert not same.any()


def test_two_processes_draw_the_same_pages(pool, monkeypatch):
    monkeypatch.setattr(pool_module, "_WORTH_A_PROCESS", 1)
    seen = []
    drawn = make_pool(
        "train", 40, seed=5, processes=2, progress=lambda *done: seen.append(done)
    )
    assert_same(drawn, pool)
    assert seen == [(20, 40), (40, 40)]


def test_a_process_that_fails_is_reported(monkeypatch):
    monkeypatch.setattr(pool_module, "_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(pool_module.sys, "executable", "false")
    with pytest.raises(RuntimeError, match="exit code 1"):
        make_pool("train", 4, processes=2)


def test_progress_reaches_the_end(monkeypatch):
    monkeypatch.setattr(worker, "CHUNK", 4)
    seen = []
    make_pool("policy", 10, progress=lambda *done: seen.append(done))
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_cached_pool_is_read_not_drawn(tmp_path, pool, monkeypatch):
    written = make_pool("train", 40, seed=5, cache_dir=tmp_path / "new")
    assert_same(written, pool)
    monkeypatch.setattr(pool_module, "draw_pages", None)
    assert_same(make_pool("train", 40, seed=5, cache_dir=tmp_path / "new"), pool)
    assert len(list((tmp_path / "new").iterdir())) == 3


@pytest.mark.parametrize("ending", ["pages", "facts", "crc32"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_damaged_cache_is_drawn_again(tmp_path, damage, ending):
    expected = make_pool("test", 6, cache_dir=tmp_path)
    (file,) = tmp_path.glob(f"*.{ending}.npy")
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(
            {"flip": bytes(content), "truncate": content[:-5], "empty": b""}[damage]
        )
    if damage == "flip" and ending == "crc32":
        file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.warns(UserWarning, match="damaged"):
        again = make_pool("test", 6, cache_dir=tmp_path)
    assert_same(again, expected)
    assert_same(make_pool("test", 6, cache_dir=tmp_path), expected)


@pytest.mark.parametrize("wrong", [{"size": 0}, {"processes": 0}, {"seed": -1}])
def test_impossible_pool_is_refused(wrong):
    arguments = {"split": "train", "size": 2, **wrong}
    with pytest.raises(ValueError, match="at least"):
        make_pool(**arguments)
