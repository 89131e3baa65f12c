import collections
import itertools

import numpy as np
import pytest

from visor_jax.data.buckets import Bucket
from visor_jax.data.conversations.batch_plan import (
    NO_BUCKET,
    PlanSettings,
    plan_batches,
    usable_samples,
)
from visor_jax.data.conversations.length_index import LengthIndex

BUCKETS = (
    Bucket(crops=1, image_tokens=8, text_tokens=20),
    Bucket(crops=1, image_tokens=8, text_tokens=60),
    Bucket(crops=2, image_tokens=16, text_tokens=20),
    Bucket(crops=5, image_tokens=32, text_tokens=60),
)
SETTINGS = PlanSettings(batch_size=3, steps=40, seed=7, max_length=80)


def lengths_of(crops, text, **given):
    crops, text = np.array(crops, np.int32), np.array(text, np.int32)
    fields = {
        "crops": crops,
        "image_tokens": 6 * crops,
        "text_tokens": text,
        "corners": np.ones_like(crops),
        "image_end": 6 * crops,
        "first_trained": 6 * crops,
        "shared_tokens": 4 * np.minimum(crops, 1),
        "group": np.zeros_like(crops),
        "special_text": np.zeros_like(crops),
        "refused": {},
    }
    return LengthIndex(**fields | given)


def planned(lengths, buckets, settings):
    usable = usable_samples(lengths, buckets, settings)
    return plan_batches(lengths, usable, buckets, settings)


def changed(**changes):
    return PlanSettings(**vars(SETTINGS) | changes)


@pytest.fixture(scope="module")
def lengths():
    rng = np.random.default_rng(0)
    return lengths_of(rng.integers(0, 6, 50), rng.integers(1, 40, 50))


def rows_of(plan):
    return [row.tolist() for i in range(len(plan)) for row in plan.rows(i)]


def test_every_batch_has_the_smallest_bucket_of_its_samples(lengths):
    plan = planned(lengths, BUCKETS, SETTINGS)
    assert len(plan) == 40
    for i in range(len(plan)):
        bucket, rows = plan.bucket(i), plan.rows(i)
        assert len(rows) == 3
        for row in rows:
            text = lengths.text_tokens[row].sum()
            crops = lengths.crops[row].sum()
            fitting = [b for b in BUCKETS if b.crops >= crops and b.text_tokens >= text]
            assert bucket == fitting[0]
            assert len(row) == 1 or not crops
    occur = plan.batches_of_buckets()
    assert sum(occur.values()) == 40
    assert set(occur) <= set(BUCKETS)


def test_epochs_follow_each_other_and_lose_nothing(lengths):
    plan = planned(lengths, BUCKETS, changed(steps=200))
    seen = collections.Counter(sample for row in rows_of(plan) for sample in row)
    # Each sample has been once in every epoch; a queue holds back at most two rows,
    # so counts differ by the epochs that the slowest queue is behind.
    assert set(seen) == set(range(50))
    texts = lengths.crops == 0
    for bucket in range(len(BUCKETS)):
        members = np.flatnonzero(~texts & (plan.bucket_of_sample == bucket))
        counts = [seen[int(i)] for i in members]
        assert max(counts, default=0) - min(counts, default=0) <= 1


def test_the_plan_is_a_function_of_the_seed_and_grows_at_its_end(lengths):
    plans = [
        planned(lengths, BUCKETS, changed(**given))
        for given in ({}, {}, {"steps": 60}, {"seed": 8})
    ]
    rows = [rows_of(plan) for plan in plans]
    assert rows[0] == rows[1] == rows[2][:120] != rows[3]


def test_texts_share_rows_and_fill_them():
    lengths = lengths_of([0] * 60, [14] * 60)
    packed = planned(lengths, BUCKETS, changed(steps=4))
    assert packed.batches_of_buckets() == {BUCKETS[1]: 4}
    assert {len(row) for row in rows_of(packed)} == {4}
    apart = planned(lengths, BUCKETS, changed(steps=4, pack=False))
    assert apart.batches_of_buckets() == {BUCKETS[0]: 4}
    assert {len(row) for row in rows_of(apart)} == {1}


def test_samples_about_one_image_share_rows_until_they_are_full():
    group = np.array([1, 0, 1, 2, 2, 1, 1, 3], np.int64)
    lengths = lengths_of([2] * 8, [18] * 8, group=group)
    plan = planned(lengths, BUCKETS, changed(batch_size=1, steps=48))
    for i in range(len(plan)):
        (row,) = plan.rows(i)
        # 4 tokens before the image, 14 after it: a row of 60 holds four.
        text = 4 + 14 * len(row)
        assert len(set(group[row].tolist())) == 1
        assert plan.bucket(i) == (BUCKETS[2] if text <= 20 else BUCKETS[3])
    for epoch in range(12):
        rows = [plan.rows(4 * epoch + i)[0].tolist() for i in range(4)]
        assert sorted(map(len, rows)) == [1, 1, 2, 4]
        assert sorted(itertools.chain(*rows)) == list(range(8))
    apart = planned(lengths, BUCKETS, changed(pack=False))
    assert {len(row) for row in rows_of(apart)} == {1}


def test_what_no_batch_can_have_is_counted_by_reason():
    lengths = lengths_of([1, 5, 0, 9, 1], [10, 60, 61, 1, 10], refused={4: "no room"})
    plan = planned(lengths, BUCKETS, SETTINGS)
    assert plan.dropped == {
        "refused": 1,
        "longer than 80 tokens": 1,
        "larger than any bucket": 2,
    }
    assert plan.bucket_of_sample.tolist() == [0] + [NO_BUCKET] * 4
    assert {sample for row in rows_of(plan) for sample in row} == {0}


def test_long_samples_are_cut_where_asked():
    lengths = lengths_of(
        [5, 5, 5, 1],
        [60, 60, 60, 10],
        # All text comes after the image; before it; and trained at the very end.
        image_end=np.array([30, 85, 30, 6], np.int32),
        first_trained=np.array([40, 40, 79, 6], np.int32),
    )
    plan = planned(lengths, BUCKETS, changed(too_long="truncate"))
    assert plan.dropped == {
        "images end after 80 tokens": 1,
        "nothing left to train": 1,
    }
    assert {sample for row in rows_of(plan) for sample in row} == {0, 3}


def test_nothing_to_train_on():
    with pytest.raises(ValueError, match="None of 1 samples can be used"):
        planned(lengths_of([9], [1]), BUCKETS, SETTINGS)
