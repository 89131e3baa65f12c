import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest
from absl import flags

from tests.data import tiny_llava
from tests.data.conversations import conversation_set
from tests.data.conversations.conversation_set import STEPS, opened
from visor_jax.batch import Batch
from visor_jax.data.conversations import length_workers
from visor_jax.data.conversations.conversation_set import ConversationSet
from visor_jax.data.conversations.manifest import read_manifest
from visor_jax.data.conversations.raw_sample import Conversation
from visor_jax.data.conversations.training_batches import ReadingSettings
from visor_jax.data.conversations.training_samples import TrainingProcessor, messages_of


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    return conversation_set.draw(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def data(converted, tmp_path_factory):
    return opened(converted, tmp_path_factory.mktemp("cache"))


def assert_same(got: Batch, expected: Batch):
    # The trees differ where a field is absent from one of them.
    same = functools.partial(np.testing.assert_array_equal, strict=True)
    jax.tree.map(same, got, expected)


def test_measured_lengths_are_those_of_the_samples(data):
    for number in range(len(data.samples)):
        found, row = data.samples.find(number)
        sample = data.processor.sample(found.sample(row))
        trained = sample.layout.text_positions[sample.layout.loss_mask]
        positions = sample.layout.image_positions
        expected = {
            "crops": sample.num_crops,
            "image_tokens": sample.num_image_tokens,
            "text_tokens": sample.num_text_tokens,
            "corners": sample.patch_index.corners,
            "image_end": positions.max() + 1 if len(positions) else 0,
            "first_trained": trained.min(),
        }
        got = {name: getattr(data.lengths, name)[number] for name in expected}
        assert got == expected


def test_batches_hold_the_samples_of_the_plan(data):
    tokenizer, seen = tiny_llava.tokenizer(), 0
    for i, batch in enumerate(data.batches()):
        assert batch.tokens.shape == (4, data.plan.bucket(i).text_tokens)
        for row, numbers in enumerate(data.plan.rows(i)):
            text = tokenizer.decode(batch.tokens[row][batch.text_mask[row]])
            segments = batch.text_segments[row][batch.text_mask[row]]
            assert segments.max() == (len(numbers) if len(numbers) > 1 else 0)
            for number in numbers.tolist():
                found, at = data.samples.find(number)
                turns = found.conversation(at).turns
                assert all(t.replace("<image>", "") in text for r, t in turns[1::2])
                seen += 1
    assert i == STEPS - 1
    assert seen == len(data.plan.samples)


def test_the_second_start_measures_nothing(data, converted, tmp_path, monkeypatch):
    first = opened(converted, tmp_path)
    monkeypatch.setattr(TrainingProcessor, "lengths", None)
    again = opened(converted, tmp_path)
    assert again.digest == first.digest == data.digest
    (file,) = tmp_path.glob("lengths-*.npz")
    file.write_bytes(b"damaged")
    monkeypatch.undo()
    np.testing.assert_array_equal(
        opened(converted, tmp_path).lengths.text_tokens,
        first.lengths.text_tokens,
    )


def test_a_place_is_saved_and_found_again_by_any_readers(data):
    expected = list(data.batches())
    iterator = data.batches(ReadingSettings(threads=3, prefetch=5))
    for _ in range(7):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    # What was read ahead is no part of the place.
    assert state["next_index"] == 7
    iterator.close()
    resumed = data.batches(ReadingSettings(threads=1, prefetch=1))
    next(resumed)
    resumed.set_state(state)
    for batch, wanted in zip(resumed, expected[7:], strict=True):
        assert_same(batch, wanted)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"batch_size": 5},
        {"text_lengths": (512,)},
        {"pack": False},
        {"processor": conversation_set.make_processor(supervision="llava_next")},
        {"processor": conversation_set.make_processor(max_length=300)},
    ],
)
def test_a_place_in_other_data_is_refused(data, converted, tmp_path, changes):
    state = data.batches().get_state()
    other = opened(converted, tmp_path, **changes)
    with pytest.raises(ValueError, match="saved in the middle of other data"):
        other.batches().set_state(state)
    longer = opened(converted, tmp_path, steps=STEPS + 5)
    longer.batches().set_state(state)


def test_processes_read_their_rows_of_every_batch(data):
    whole, first, rest = (
        data.batches(rows=rows) for rows in (slice(None), slice(0, 1), slice(1, 4))
    )
    for batch, *parts in zip(whole, first, rest, strict=True):
        joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        assert_same(joined, batch)


@pytest.mark.slow
def test_worker_processes_read_the_same(data):
    flags.FLAGS.mark_as_parsed()
    expected = list(data.batches())
    for workers in (1, 2):
        iterator = data.batches(ReadingSettings(workers=workers))
        for batch, wanted in zip(iterator, expected, strict=True):
            assert_same(batch.map(np.array), wanted)
        iterator.close()


def test_a_damaged_record_stops_the_run_or_is_left_out(converted, data, tmp_path):
    copy = shutil.copytree(converted, tmp_path / "copy")
    conversation_set.damage(copy / "images-00001.array_record")
    broken = opened(copy, tmp_path)
    with pytest.raises(ValueError, match=r"Batch \d+: .*images-00001.*, row \d+ is da"):
        list(broken.batches())
    iterator = broken.batches(ReadingSettings(max_bad_records=10**6))
    left_out = 0
    for batch, wanted in zip(iterator, data.batches(), strict=True):
        gone = ~batch.text_mask.any(axis=1)
        assert not batch.loss_mask[gone].any()
        assert not batch.image_mask[gone].any()
        left_out += int(gone.sum())
        kept = jax.tree.map(lambda x, gone=gone: x[~gone], (batch, wanted))
        assert_same(*kept)
    assert iterator.get_state()["bad_records"] == left_out > 0


def test_long_samples_are_cut_at_their_end(data):
    found, row = data.samples.find(0)
    raw = found.sample(row)
    whole = data.processor.sample(raw).layout
    cut = dataclasses.replace(data.processor, max_length=whole.length - 3)
    layout = cut.sample(raw).layout
    np.testing.assert_array_equal(layout.tokens, whole.tokens[:-3])
    np.testing.assert_array_equal(layout.targets, whole.targets[:-3])
    np.testing.assert_array_equal(layout.loss_mask[:-1], whole.loss_mask[:-4])
    assert not layout.loss_mask[-1]
    np.testing.assert_array_equal(layout.image_positions, whole.image_positions)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is <image> here?", "<image>\nWhat is  here?"),
        ("Why?\n<image>", "<image>\nWhy?"),
        ("<image> Why?", "<image> Why?"),
        ("<image>", "<image>"),
        ("a <image> b <image>", "a <image> b <image>"),
        ("Why?", "Why?"),
    ],
)
def test_a_lone_image_comes_first_as_in_llava(text, expected):
    turns = (("user", text), ("assistant", "So."))
    conversation = Conversation(id="", source="", turns=turns)
    assert messages_of(conversation) == [
        {"role": "user", "content": expected},
        {"role": "assistant", "content": "So."},
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "video"}, "data.kind='video'"),
        ({"path": None}, r"--config\.data\.path"),
        ({"path": "/nowhere"}, "no converted data set"),
        ({"processor": "/nowhere"}, "is no folder"),
        ({"supervision": "none"}, "data.supervision='none'"),
        ({"too_long": "skip"}, "data.too_long='skip'"),
        ({"text_lengths": (5, 5)}, "must rise"),
        ({"max_images": -1}, "max_images=-1"),
        ({"max_length": 1}, "at least 2"),
        ({"workers": -1}, "must not be negative"),
        ({"threads": 0}, "at least 1"),
        ({"batch_size": 0}, "data.batch_size=0"),
    ],
)
def test_impossible_settings(converted, changes, message):
    settings = conversation_set.data_settings(converted)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(settings, **changes).check_present()


@pytest.mark.slow
def test_worker_processes_measure_the_same(data, converted, monkeypatch):
    monkeypatch.setattr(length_workers, "_MANY", 1)
    monkeypatch.setattr(length_workers, "_CHUNK", 7)
    samples = ConversationSet(read_manifest(converted))
    measured, refused = length_workers.measure(samples, data.processor, workers=2)
    expected, _ = length_workers.measure(samples, data.processor)
    np.testing.assert_array_equal(measured, expected)
    np.testing.assert_array_equal(measured[2], data.lengths.text_tokens)
    assert refused == {}
