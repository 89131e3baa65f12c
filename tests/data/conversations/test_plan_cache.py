"""A plan is made once: read again as it was, made again where it is damaged."""

import dataclasses
import logging

import numpy as np
import pytest

from tests.data.conversations import conversation_set
from tests.data.conversations.test_batch_plan import BUCKETS, SETTINGS, lengths_of
from visor_jax.data.conversations import batch_plan, plan_cache
from visor_jax.data.conversations.batch_plan import plan_batches, usable_samples
from visor_jax.data.conversations.plan_cache import cached_plan


@pytest.fixture
def lengths():
    rng = np.random.default_rng(3)
    return lengths_of(rng.integers(0, 6, 60), rng.integers(1, 40, 60))


def cached(lengths, cache, *, settings=SETTINGS, buckets=BUCKETS, **how):
    usable = usable_samples(lengths, buckets, settings)
    return cached_plan(lengths, usable, buckets, settings, cache=cache, **how)


def assert_same(got, expected):
    for field in dataclasses.fields(expected):
        np.testing.assert_equal(
            getattr(got, field.name), getattr(expected, field.name), field.name
        )
        if isinstance(getattr(expected, field.name), np.ndarray):
            same = getattr(expected, field.name).dtype
            assert getattr(got, field.name).dtype == same


def test_the_second_start_reads_what_the_first_planned(lengths, tmp_path, monkeypatch):
    usable = usable_samples(lengths, BUCKETS, SETTINGS)
    expected = plan_batches(lengths, usable, BUCKETS, SETTINGS)
    assert_same(cached(lengths, tmp_path / "cache"), expected)
    monkeypatch.setattr(batch_plan, "planned_rows", None)
    assert_same(cached(lengths, tmp_path / "cache"), expected)
    (file,) = (tmp_path / "cache").iterdir()
    assert file.suffix == ".npz"


def test_another_input_is_another_plan(lengths, tmp_path):
    def files():
        return {file.name for file in tmp_path.iterdir()}

    cached(lengths, tmp_path)
    for changes in (
        {"seed": 8},
        {"steps": 41},
        {"batch_size": 2},
        {"pack": False},
        {"max_length": 70},
    ):
        before = files()
        cached(lengths, tmp_path, settings=dataclasses.replace(SETTINGS, **changes))
        assert len(files()) == len(before) + 1, changes
    for field in ("text_tokens", "crops", "shared_tokens", "group"):
        before, values = files(), getattr(lengths, field).copy()
        values[11] += 1
        cached(dataclasses.replace(lengths, **{field: values}), tmp_path)
        assert len(files()) == len(before) + 1, field
    before = files()
    cached(lengths, tmp_path, buckets=(*BUCKETS[:2], BUCKETS[3]))
    assert len(files()) == len(before) + 1
    cached(lengths, tmp_path)
    assert len(files()) == len(before) + 1


@pytest.mark.parametrize("place", np.linspace(0, 0.99, 12).round(2))
def test_a_plan_with_a_wrong_byte_is_planned_again(lengths, tmp_path, place, caplog):
    expected = cached(lengths, tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    content = bytearray(whole)
    content[int(place * len(content))] ^= 0x55
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert_same(cached(lengths, tmp_path), expected)
    # A byte that no number depends on (a date, say) may pass.
    assert file.read_bytes() == whole or not caplog.messages


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\0" * 1000])
def test_a_file_that_is_no_plan_is_planned_again(lengths, tmp_path, content, caplog):
    expected = cached(lengths, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert_same(cached(lengths, tmp_path), expected)
    (said,) = caplog.messages
    assert f"{file} is damaged" in said


def test_a_plan_of_other_sizes_is_planned_again(lengths, tmp_path, monkeypatch):
    expected = cached(lengths, tmp_path)
    monkeypatch.setattr(plan_cache, "_digest", lambda *_: "the same for all")
    cached(lengths, tmp_path, settings=dataclasses.replace(SETTINGS, steps=39))
    assert_same(cached(lengths, tmp_path), expected)


def test_progress_is_told_of_batches_and_may_stop(lengths, tmp_path):
    seen = []
    settings = dataclasses.replace(SETTINGS, steps=250)
    cached(
        lengths, tmp_path, settings=settings, progress=lambda *done: seen.append(done)
    )
    assert seen == [(100, 250), (200, 250), (250, 250)]

    def stop(*_):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        cached(lengths, tmp_path / "other", progress=stop)
    # What was not finished is not kept.
    assert not (tmp_path / "other").exists()


def test_a_run_that_goes_on_plans_nothing(tmp_path, monkeypatch):
    converted = conversation_set.draw(tmp_path, 20)
    first = conversation_set.opened(converted, tmp_path / "cache")
    monkeypatch.setattr(batch_plan, "planned_rows", None)
    again = conversation_set.opened(converted, tmp_path / "cache")
    assert_same(again.plan, first.plan)
    assert again.digest == first.digest


@pytest.mark.parametrize("too_long", ["drop", "truncate"])
def test_a_run_on_the_smaller_part_of_its_data_needs_to_be_asked_for(
    tmp_path, too_long
):
    converted = conversation_set.draw(tmp_path, 40)
    processor = conversation_set.make_processor(
        max_length={"drop": 90, "truncate": 80}[too_long]
    )
    how = {"processor": processor, "too_long": too_long}
    message = (
        r"(?s)^(\d\d) of 40 samples would be left out \(.*more than "
        r"data\.max_left_out=0\.5.*--config\.data\.max_left_out=1\.$"
    )
    with pytest.raises(ValueError, match=message):
        conversation_set.opened(converted, tmp_path / "cache", **how)
    # Nothing was planned for it.
    assert not list((tmp_path / "cache").glob("plan-*"))
    data = conversation_set.opened(
        converted, tmp_path / "cache", **how, max_left_out=1.0
    )
    left_out = sum(data.plan.dropped.values())
    assert 20 < left_out < 40
    # Exactly so many may go, and one more may not.
    how["max_left_out"] = left_out / 40
    conversation_set.opened(converted, tmp_path / "cache", **how)
    with pytest.raises(ValueError, match="would be left out"):
        conversation_set.opened(
            converted,
            tmp_path / "cache",
            **how | {"max_left_out": (left_out - 1) / 40},
        )


def test_a_share_is_a_share(tmp_path):
    with pytest.raises(ValueError, match=r"max_left_out=1\.5 is not in 0\.\.1"):
        conversation_set.data_settings(tmp_path, max_left_out=1.5)
