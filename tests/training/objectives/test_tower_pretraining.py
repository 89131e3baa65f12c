"""The pretrained tower's cache, which runs share."""

import threading

import numpy as np

from tests import tiny
from visor_jax.training.objectives.tower_pretraining import TowerSettings, cached_tower

VISION = tiny.VISOR.vision
SETTINGS = TowerSettings(steps=3)


def test_of_two_runs_that_share_a_cache_one_trains_and_the_other_waits(tmp_path):
    waits, trained, got = threading.Event(), [], []

    def train():
        trained.append(1)
        # The other one has come meanwhile.
        assert waits.wait(timeout=60)
        return {"kernel": np.arange(4.0)}

    def run():
        tower = cached_tower(tmp_path, VISION, SETTINGS, {}, 0, train, wait=waits.set)
        got.append(tower["kernel"].tolist())

    runs = [threading.Thread(target=run) for _ in range(2)]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    assert trained == [1]
    assert got == [[0.0, 1.0, 2.0, 3.0]] * 2
    (file,) = tmp_path.iterdir()
    assert file.suffix == ".msgpack"


def test_a_tower_is_trained_once_and_anew_if_its_file_is_damaged(tmp_path):
    trained = []

    def train():
        trained.append(len(trained))
        return {"kernel": np.full(3, 1.0 + len(trained))}

    def cached(seed=0):
        return cached_tower(tmp_path, VISION, SETTINGS, {}, seed, train)["kernel"]

    first = cached()
    np.testing.assert_array_equal(cached(), first)
    assert len(trained) == 1
    # Another tower: another file.
    assert not np.array_equal(cached(seed=1), first)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:10])
    assert not np.array_equal(cached(), first)
    assert len(trained) == 3
