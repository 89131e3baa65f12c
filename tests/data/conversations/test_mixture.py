import json

import numpy as np
import pytest

from tests.data.conversations import conversation_set
from visor_jax.data.conversations.mixture import read_mixture, select
from visor_jax.data.conversations.training_batches import MixedSamples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with two converted sets, of 10 and 7 samples."""
    folder = tmp_path_factory.mktemp("mixture")
    for name, count in (("a", 10), ("b", 7)):
        converted = conversation_set.draw(folder / name, count, sizes=((9, 9),))
        converted.rename(folder / f"{name}-converted")
    return folder


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("all", range(11)),
        ("first:3", range(3)),
        ("end:3", range(8, 11)),
        # Rounded up, exactly: 1.1 and 1.1000000000000001 are not the same.
        ("first:10%", range(2)),
        ("end:100%", range(11)),
        ("first:0.1%", range(1)),
        ("first:11", range(11)),
    ],
)
def test_strategies_take_what_they_say(strategy, expected):
    rows = select(strategy, 11, np.random.default_rng(0))
    assert rows.tolist() == list(expected)


def test_percentages_are_rounded_up_without_float_error():
    rng = np.random.default_rng(0)
    # 0.07 * 100 is 7.000000000000001 in floats.
    assert len(select("first:7%", 100, rng)) == 7
    assert len(select("first:7%", 101, rng)) == 8


def test_random_parts_depend_on_the_seed_and_hold_nothing_twice():
    drawn = [select("random:40%", 50, np.random.default_rng(s)) for s in (0, 0, 1)]
    assert drawn[0].tolist() == drawn[1].tolist() != drawn[2].tolist()
    assert len(set(drawn[0].tolist())) == 20
    assert drawn[0].tolist() == sorted(drawn[0].tolist())


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("some", "is not one of: all"),
        ("first:-1", "is not one of"),
        ("first:2.5", "part of a sample"),
        ("first:0", "asks for 0 of 11"),
        ("end:12", "asks for 12 of 11"),
        ("random:101%", "asks for 12 of 11"),
    ],
)
def test_impossible_strategies(strategy, message):
    with pytest.raises(ValueError, match=message):
        select(strategy, 11, np.random.default_rng(0))


def test_a_mixture_numbers_the_samples_of_all_entries(folder):
    entries = [
        {"path": "a-converted", "sampling_strategy": "end:20%"},
        {"path": "b-converted"},
        {"path": "a-converted", "sampling_strategy": "first:1"},
    ]
    for file, content in (
        ("m.json", json.dumps({"datasets": entries})),
        (
            "m.yaml",
            "datasets:\n- {path: a-converted, sampling_strategy: 'end:20%'}\n"
            "- path: b-converted\n- path: a-converted\n"
            "  sampling_strategy: first:1\n",
        ),
    ):
        (folder / file).write_text(content)
        samples = MixedSamples.of(read_mixture(folder / file, seed=0))
        found = [samples.find(number) for number in range(len(samples))]
        places = [
            (data.manifest.directory.name[0], row, data.conversation(row).id)
            for data, row in found
        ]
        expected = [*(("a", n) for n in (8, 9)), *(("b", n) for n in range(7))]
        expected += [("a", 0)]
        assert places == [(s, n, f"sample-{n}") for s, n in expected]
        with pytest.raises(IndexError):
            samples.find(len(samples))


def test_a_converted_folder_is_a_mixture_of_one(folder):
    (entry,) = read_mixture(folder / "a-converted", seed=0)
    assert entry.strategy == "all"
    assert entry.rows.tolist() == list(range(10))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("datasets: [", "no YAML or JSON"),
        ("sets: []", "lists no data sets"),
        ("datasets: [a-converted]", "entry 1 has no 'path'"),
        ("datasets: [{path: a-converted, share: 2}]", r"unknown keys \['share'\]"),
        ("datasets: [{path: nowhere}]", r"entry 1 \(nowhere\).*convert\.data"),
        (
            "datasets: [{path: b-converted}, "
            "{path: a-converted, sampling_strategy: 'first:11'}]",
            r"entry 2 \(a-converted\): 'first:11' asks for 11 of 10",
        ),
    ],
)
def test_mistakes_name_the_entry(folder, content, message):
    (folder / "wrong.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_mixture(folder / "wrong.yaml", seed=0)


def test_what_is_no_data_at_all(tmp_path):
    with pytest.raises(ValueError, match="neither converted data"):
        read_mixture(tmp_path, seed=0)
