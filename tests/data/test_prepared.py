import dataclasses
import json
import shutil

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests import tiny
from visor_jax.batch import spec_of
from visor_jax.data.prepared import (
    PreparedRows,
    example_batch,
    prepared_iterator,
    write_prepared,
)
from visor_jax.data.prepared_manifest import MANIFEST, read_manifest
from visor_jax.data.tokenizer import load_tokenizer, page_tokenizer
from visor_jax.training.warm_start import bring_processing_files

ROWS, ROWS_PER_SHARD = 7, 3


def make_rows(count=ROWS):
    """Returns rows that know their number: tokens[0]."""
    batch = tiny.random_batch(tiny.VISOR, tiny.SAMPLES[:1] * count)
    fields = {k: v for k, v in vars(batch).items() if v is not None}
    rows = [{k: v[i] for k, v in fields.items()} for i in range(count)]
    for number, row in enumerate(rows):
        row["tokens"][0] = number
    return rows


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("prepared")
    write_prepared(directory, make_rows(), rows_per_shard=ROWS_PER_SHARD)
    return directory


@pytest.fixture
def copied(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copied")


def run(directory, **changes):
    settings = {"batch_size": 2, "steps": 7, "seed": 0} | changes
    return prepared_iterator(directory, **settings)


def numbers(batches):
    return np.concatenate([batch.tokens[:, 0] for batch in batches]).tolist()


def edit_manifest(directory, **changes):
    content = json.loads((directory / MANIFEST).read_text())
    (directory / MANIFEST).write_text(json.dumps(content | changes))


def test_rows_come_back_as_they_were_written(written):
    rows = make_rows()
    for batch in run(written, steps=4):
        assert batch.image_labels is None
        for i, number in enumerate(batch.tokens[:, 0]):
            for name, array in rows[number].items():
                read = getattr(batch, name)
                assert read.dtype == array.dtype
                np.testing.assert_array_equal(read[i], array, err_msg=name)


def test_manifest_says_what_there_is(written):
    manifest = read_manifest(str(written))
    assert [s.rows for s in manifest.shards] == [3, 3, 1]
    assert manifest.rows == len(PreparedRows(manifest)) == ROWS
    sizes = {s.file: s.bytes for s in manifest.shards}
    files = {f.name: f.stat().st_size for f in written.iterdir() if f.name != MANIFEST}
    assert sizes == files
    content = json.loads((written / MANIFEST).read_text())
    assert set(content) == {"format", "rows", "shards", "fields"}
    assert content["fields"]["pixels"] == {"shape": [2, 14, 14, 3], "dtype": "float32"}
    assert write_prepared(
        written.parent / "again", make_rows(), rows_per_shard=ROWS_PER_SHARD
    ) == dataclasses.replace(manifest, directory=written.parent / "again")


def test_optional_fields_and_foreign_byte_order_are_kept(tmp_path):
    rows = make_rows(2)
    for row in rows:
        row["image_labels"] = row["image_positions"] + 1
        row["targets"] = row["targets"].astype(">i4")
    rows.append(rows[0] | {"image_labels": rows[0]["image_labels"].tolist()})
    with pytest.raises(ValueError, match=r"Row 2 differs .*image_labels.*int64"):
        write_prepared(tmp_path, rows, rows_per_shard=2)
    write_prepared(tmp_path, rows[:2], rows_per_shard=2)
    batch = next(run(tmp_path, steps=1))
    row = rows[batch.tokens[0, 0]]
    np.testing.assert_array_equal(batch.image_labels[0], row["image_labels"])
    np.testing.assert_array_equal(batch.targets[0], row["targets"])
    assert batch.targets.dtype == np.int32


def test_every_epoch_has_every_row_once_in_another_order(written):
    order = numbers(run(written, steps=14))
    assert len(order) == 4 * ROWS
    epochs = [tuple(order[i : i + ROWS]) for i in range(0, len(order), ROWS)]
    assert all(sorted(epoch) == list(range(ROWS)) for epoch in epochs)
    assert len({*epochs, tuple(range(ROWS))}) == 5
    # Another seed is another order from the start, not the same one an epoch on.
    others = numbers(run(written, steps=14, seed=1))
    assert not set(epochs) & {tuple(others[i : i + ROWS]) for i in range(0, 28, ROWS)}


def test_order_depends_on_the_seed_alone(written, copied):
    order = numbers(run(written))
    assert numbers(run(copied, num_threads=2, prefetch=1)) == order
    assert numbers(run(written, num_threads=0)) == order
    assert numbers(run(written, batch_size=7, steps=2)) == order
    assert numbers(run(written, steps=9))[:14] == order


def test_batches_may_be_larger_than_the_data(written):
    (batch,) = run(written, batch_size=16, steps=1)
    assert batch.size == 16
    assert set(np.bincount(batch.tokens[:, 0])) == {2, 3}


@pytest.mark.parametrize("num_threads", [0, 2])
def test_resumed_iterator_gives_the_same_batches(written, num_threads):
    whole = run(written, num_threads=num_threads)
    next(whole), next(whole)
    state = whole.get_state()
    after = numbers(whole)
    resumed = run(written, num_threads=num_threads)
    resumed.set_state(state)
    assert numbers(resumed) == after
    assert len(after) == 10


def test_iterator_travels_with_an_orbax_checkpoint(written, tmp_path):
    source, restored = run(written), run(written)
    next(source)
    with ocp.CheckpointManager(tmp_path) as manager:
        saved = grain.checkpoint.CheckpointSave(source)
        manager.save(1, args=ocp.args.Composite(data=saved))
        manager.wait_until_finished()
        wanted = grain.checkpoint.CheckpointRestore(restored)
        manager.restore(1, args=ocp.args.Composite(data=wanted))
    assert numbers(restored) == numbers(source)


def test_example_has_the_shapes_of_a_batch(written):
    example = example_batch(written, 5)
    assert spec_of(example) == spec_of(next(run(written, batch_size=5)))
    np.testing.assert_array_equal(example.pixels[4], make_rows()[0]["pixels"])


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"steps": 0}, {"seed": -1}], ids=str
)
def test_impossible_runs_are_refused(written, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value} "):
        run(written, **wrong)
    with pytest.raises(ValueError, match="batch_size=0"):
        example_batch(written, 0)


def test_interrupted_preparation_is_no_data_set(tmp_path):
    def failing():
        yield from make_rows()
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_prepared(tmp_path, failing(), rows_per_shard=1)
    with pytest.raises(ValueError, match=r"interrupted.*manifest\.json.*write_prep"):
        read_manifest(tmp_path)
    write_prepared(tmp_path, make_rows(2), rows_per_shard=1)
    assert len(list(tmp_path.iterdir())) == 3
    assert sorted(numbers(run(tmp_path, steps=1))) == [0, 1]


def test_finished_data_set_is_not_overwritten(written):
    with pytest.raises(ValueError, match=r"already.*delete"):
        write_prepared(written, make_rows(), rows_per_shard=2)
    assert read_manifest(written).rows == ROWS


def test_wrong_rows_are_refused(tmp_path):
    def write(rows, rows_per_shard=2):
        write_prepared(tmp_path / "new", rows, rows_per_shard=rows_per_shard)

    first, second = make_rows(2)
    with pytest.raises(ValueError, match="rows_per_shard=0"):
        write([first], 0)
    with pytest.raises(ValueError, match="no rows"):
        write([])
    names = {*first, "size"} - {"tokens", "targets"}
    with pytest.raises(
        ValueError, match=r"\['size'\], missing=\['targets', 'tokens'\]"
    ):
        write([dict.fromkeys(names, first["tokens"])])
    with pytest.raises(ValueError, match=r"Row 1 differs.*tokens.*int32.*Pad"):
        write([first, second | {"tokens": second["tokens"][:-1]}])
    assert not (tmp_path / "new" / MANIFEST).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format is 2, not 1"),
        ({"rows": 8}, "rows=8.*have 7"),
        ({"rows": 0, "shards": []}, "rows=0"),
        ({"shards": [{"file": "rows-00000.array_record"}]}, "rows"),
        ({"fields": {}}, "missing="),
        ({"fields": []}, "items"),
    ],
)
def test_wrong_manifest_is_refused(copied, changes, message):
    edit_manifest(copied, **changes)
    with pytest.raises(ValueError, match=rf"{copied}.*{message}.*write_prepared"):
        read_manifest(copied)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_unreadable_manifest_is_refused(copied, text):
    (copied / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match=f"{copied}.*cannot be used.*again"):
        read_manifest(copied)


def test_missing_and_truncated_shards_are_all_named(copied, tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a prepared data set"):
        run(tmp_path / "nowhere")
    (copied / "rows-00000.array_record").unlink()
    shard = copied / "rows-00002.array_record"
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{copied} is incomplete") as error:
        run(copied)
    assert "rows-00000.array_record is missing" in str(error.value)
    assert f"rows-00002.array_record has {size - 1} of {size} bytes" in str(error.value)
    assert "Copy these files again" in str(error.value)


def test_damaged_row_names_its_file(copied):
    shard = copied / "rows-00001.array_record"
    content = bytearray(shard.read_bytes())
    content[200:2000] = bytes(1800)
    shard.write_bytes(content)
    rows = PreparedRows(read_manifest(copied))
    assert rows[2]["tokens"][0] == 2
    with pytest.raises(ValueError, match=r"Row 3 .*rows-00001\.array_record.*damaged"):
        rows[3]


def test_rows_of_other_shapes_than_the_manifest_says_are_refused(copied):
    fields = json.loads((copied / MANIFEST).read_text())["fields"]
    edit_manifest(copied, fields=fields | {"tokens": {"shape": [1], "dtype": "int32"}})
    with pytest.raises(ValueError, match=r"is not what manifest\.json says"):
        next(run(copied))


def test_a_tokenizer_lies_beside_the_rows(tmp_path):
    tokenizer = page_tokenizer()
    write_prepared(
        tmp_path / "data", make_rows(1), rows_per_shard=1, tokenizer=tokenizer
    )
    assert read_manifest(tmp_path / "data").rows == 1
    bring_processing_files(tmp_path / "run", data=str(tmp_path / "data"))
    found = load_tokenizer(tmp_path / "run/tokenizer")
    assert found.get_vocab() == tokenizer.get_vocab()


def test_prepared_data_without_a_tokenizer_is_said(written, tmp_path, caplog):
    bring_processing_files(tmp_path, data=str(written))
    assert "has no tokenizer/tokenizer.json" in caplog.text
    assert not list(tmp_path.iterdir())
    bring_processing_files(tmp_path)
    assert caplog.text.count("tokenizer/tokenizer.json") == 1
