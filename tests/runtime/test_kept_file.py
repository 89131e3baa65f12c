"""Read by many, made by one, and made again whatever is wrong with it."""

import logging
import threading
import tokenize

import numpy as np
import pytest

from visor_jax.data.conversations import length_index
from visor_jax.data.pages.pool import cache, pool
from visor_jax.policy import score_cache
from visor_jax.runtime import atomic_write
from visor_jax.runtime.kept_file import read_or_make


def read(file):
    return file.read_text() if file.exists() else None


def test_it_is_made_once_and_then_read(tmp_path):
    file, made = tmp_path / "a/kept", []

    def make():
        made.append(1)
        atomic_write.write_text(file, "x")
        return "x"

    for _ in range(3):
        assert read_or_make(file, lambda: read(file), make) == "x"
    assert made == [1]
    assert list(file.parent.iterdir()) == [file]


def test_many_at_once_make_it_once(tmp_path):
    file, made, got = tmp_path / "kept", [], []

    def make():
        made.append(1)
        atomic_write.write_text(file, "x")
        return "x"

    runs = [
        threading.Thread(
            target=lambda: got.append(read_or_make(file, lambda: read(file), make))
        )
        for _ in range(8)
    ]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    assert (made, got) == ([1], ["x"] * 8)


@pytest.mark.parametrize("error", [tokenize.TokenError("EOF"), MemoryError(), KeyError])
def test_any_damage_means_made_again_and_is_said_once(tmp_path, caplog, error):
    file = tmp_path / "kept"

    def fails():
        raise error

    with caplog.at_level(logging.WARNING):
        assert read_or_make(file, fails, lambda: "made") == "made"
    assert [m for m in caplog.messages if "is damaged" in m] == caplog.messages
    assert len(caplog.messages) == 1


def test_who_is_told_to_stop_waiting_is_no_damage(tmp_path):
    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_or_make(tmp_path / "kept", stopped, lambda: "made")


# The header of an array that Python 3.13 fails to take apart with an error of its
# tokenizer, which is neither a ValueError nor an OSError.
def test_a_header_that_is_no_header_means_drawn_again(tmp_path, monkeypatch):
    expected = pool.make_pool("test", 6, cache_dir=tmp_path)
    load = np.load

    def as_on_a_newer_python(file, *arguments, **options):
        if str(file).endswith(".facts.npy"):
            raise tokenize.TokenError("unexpected EOF in multi-line statement", (1, 0))
        return load(file, *arguments, **options)

    monkeypatch.setattr(cache.np, "load", as_on_a_newer_python)
    with pytest.warns(UserWarning, match="is damaged and will be drawn again"):
        again = pool.make_pool("test", 6, cache_dir=tmp_path)
    np.testing.assert_array_equal(again.pages, expected.pages)


def test_other_kept_arrays_are_made_again_too(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise tokenize.TokenError("unexpected EOF", (1, 0))

    monkeypatch.setattr(np, "load", fails)
    file = tmp_path / "a.npz"
    file.write_bytes(b"PK")
    assert score_cache._read(file, ("seen",)) is None
    made = read_or_make(file, lambda: length_index._load(file, 3), lambda: "measured")
    assert made == "measured"
