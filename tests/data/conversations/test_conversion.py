import collections
import json
import shutil

import pytest
from PIL import Image

from tests.data.conversations.conversation_set import damage
from tests.data.conversations.llava_set import BREAKS, entries, write_set
from visor_jax.data.conversations.conversation_set import (
    ConversationSet,
    DamagedRecordError,
)
from visor_jax.data.conversations.converting import conversion, sources
from visor_jax.data.conversations.converting.conversion import (
    ConversionSettings,
    convert,
)
from visor_jax.data.conversations.converting.item_checks import (
    REASONS,
    BadItemError,
    ImageFolder,
    read_item,
)
from visor_jax.data.conversations.manifest import (
    BAD_ITEMS,
    MANIFEST,
    read_manifest,
    verify_shards,
)

COUNT = 510


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A data set with every kind of broken entry: (folder, what is wrong)."""
    folder = tmp_path_factory.mktemp("drawn")
    return folder, write_set(folder, COUNT)


def settings_of(folder, **changes):
    fields = {
        "sources": (str(folder / "train.json"),),
        "image_folder": str(folder / "images"),
        "rows_per_shard": 90,
    }
    return ConversionSettings(**fields | changes)


@pytest.fixture(scope="module")
def converted(drawn, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted")
    convert(settings_of(drawn[0]), out)
    return out


def test_the_manifest_counts_what_there_is_and_what_is_wrong(drawn, converted):
    _, wrong = drawn
    # A list of entries is broken as a whole; only lines are by themselves.
    assert set(wrong) == set(BREAKS) == set(REASONS) - {"broken JSON"}
    manifest = read_manifest(converted)
    bad = manifest.facts["bad_items"]
    assert bad["reasons"] == wrong
    assert bad["total"] == wrong.total() == COUNT - manifest.samples
    lines = (converted / BAD_ITEMS).read_text().splitlines()
    listed = collections.Counter(json.loads(line)["reason"] for line in lines)
    assert listed == wrong
    assert [shard.rows for shard in manifest.shards] == [89, 88, 88, 88, 88, 59]
    assert manifest.facts["text_only"] == 102
    assert not verify_shards(manifest, manifest.shards[0])


def test_good_entries_come_back_as_they_were(drawn, converted):
    data = ConversationSet(read_manifest(converted))
    good = [(entry, files) for entry, files, wrong in entries(COUNT) if wrong is None]
    assert len(data) == len(good)
    read = list(data.conversations())
    for row, (entry, files) in enumerate(good):
        sample = data.sample(row)
        assert sample.conversation == read[row]
        assert sample.conversation.id == entry["id"]
        assert sample.images == tuple(files.values())
        texts = [turn["value"] for turn in entry["conversations"]]
        assert [text for _, text in sample.conversation.turns] == texts
        sizes = [Image.open(drawn[0] / "images" / name).size[::-1] for name in files]
        assert list(sample.conversation.image_sizes) == sizes


def test_stopped_and_started_again_is_the_same_byte_by_byte(
    drawn, converted, tmp_path, monkeypatch
):
    out, done = tmp_path / "out", []
    whole = conversion.write_shard

    def dies_in_the_third(directory, number, piece, folder):
        if len(done) == 2:
            left = directory / ".images-00002.array_record.1-1-a.unfinished"
            left.write_bytes(b"half")
            raise KeyboardInterrupt
        done.append(number)
        return whole(directory, number, piece, folder)

    monkeypatch.setattr(conversion, "write_shard", dies_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        convert(settings_of(drawn[0]), out)
    assert not (out / MANIFEST).exists()
    with pytest.raises(ValueError, match="was interrupted"):
        read_manifest(out)
    with pytest.raises(ValueError, match="unfinished conversion of other sources"):
        convert(settings_of(drawn[0], rows_per_shard=10), out)
    again = []
    monkeypatch.setattr(
        conversion, "write_shard", lambda *a: again.append(a[1]) or whole(*a)
    )
    convert(settings_of(drawn[0]), out)
    assert again == [2, 3, 4, 5]
    files = {f.name for f in converted.iterdir()}
    assert {f.name for f in out.iterdir()} == files
    for name in files:
        assert (out / name).read_bytes() == (converted / name).read_bytes(), name


def test_jsonl_and_parquet_give_the_same_samples(drawn, converted, tmp_path):
    folder, _ = drawn
    listed = json.loads((folder / "train.json").read_text())
    lines = [json.dumps(entry) for entry in listed[:99]]
    text = "\n\n".join([*lines, '"text"', "{half"])
    (tmp_path / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    changes = {"sources": (str(tmp_path / "train.jsonl"),), "rows_per_shard": 30}
    convert(settings_of(folder, **changes), tmp_path / "jsonl")
    expected = ConversationSet(read_manifest(converted))
    got = ConversationSet(read_manifest(tmp_path / "jsonl"))
    assert len(got) == 98
    for row in range(len(got)):
        assert got.sample(row) == expected.sample(row)
    bad = (tmp_path / "jsonl" / BAD_ITEMS).read_text().splitlines()[-2:]
    assert [json.loads(line)["reason"] for line in bad] == [
        "not an object",
        "broken JSON",
    ]
    assert "line 201, column 2, Expecting property" in json.loads(bad[1])["detail"]


def test_parquet_folders_of_the_hub(drawn, converted, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = []
    for entry, files, wrong in entries(60):
        if wrong is not None or len(files) > 1:
            continue
        image = None
        for name, content in files.items():
            image = {"bytes": content, "path": name}
        fields = ("id", "data_source", "conversations")
        rows.append({k: entry[k] for k in fields} | {"image": image})
    (tmp_path / "set").mkdir()
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        table = arrow.Table.from_pylist(part)
        file = tmp_path / "set" / f"train-{number}-of-2.parquet"
        parquet.write_table(table, file, row_group_size=7)
    out = tmp_path / "out"
    convert(
        ConversionSettings(sources=(str(tmp_path / "set"),), rows_per_shard=10), out
    )
    data = ConversationSet(read_manifest(out))
    by_id = {c.id: n for n, c in enumerate(data.conversations())}
    assert [c.id for c in data.conversations()] == [row["id"] for row in rows]
    expected = ConversationSet(read_manifest(converted))
    for row, conversation in enumerate(expected.conversations()):
        if conversation.id in by_id:
            assert data.sample(by_id[conversation.id]) == expected.sample(row)


def test_a_missing_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[data\]'"):
        sources.find_sources([str(tmp_path)])


TURNS = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"conversations": None}, "no conversation"),
        ({"conversations": [{"from": "bot", "value": "a"}]}, "no conversation"),
        ({"conversations": [{"from": "human", "value": 3}]}, "no conversation"),
        ({"conversations": [{"from": ["human"], "value": "a"}]}, "no conversation"),
        ({"conversations": [TURNS[0] | {"value": "\ud800"}, TURNS[1]]}, "no conv"),
        ({"conversations": TURNS[:1]}, "wrong alternation"),
        ({"conversations": TURNS[1:]}, "wrong alternation"),
        ({"conversations": TURNS, "image": "a.png"}, "image places"),
        ({"conversations": [TURNS[0] | {"value": "<image>"}, TURNS[1]]}, "image pl"),
        ({"conversations": [TURNS[0] | {"value": "<video>"}, TURNS[1]]}, "video"),
        (
            {
                "conversations": [TURNS[0] | {"value": "<image>"}, TURNS[1]],
                "image": {"bytes": None, "path": "\0"},
            },
            "missing image",
        ),
    ],
)
def test_bad_entries_say_why(entry, reason, tmp_path):
    with pytest.raises(BadItemError, match=reason):
        read_item(entry, ImageFolder(tmp_path))


def test_roles_of_both_kinds_and_a_leading_answer():
    said = [
        {"from": "gpt", "value": "Hello."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So."},
    ]
    sample = read_item({"id": 7, "conversations": said}, None)
    assert sample.conversation.turns == (("user", "Why?"), ("assistant", "So."))
    assert sample.conversation.id == "7"
    with_system = [{"from": "system", "value": "Be brief."}, *TURNS]
    turns = read_item({"conversations": with_system}, None).conversation.turns
    assert turns[0] == ("system", "Be brief.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ()}, "no sources"),
        ({"rows_per_shard": 0}, "at least 1"),
        ({"image_folder": "/nowhere"}, "no image folder"),
    ],
)
def test_impossible_settings(drawn, changes, message):
    with pytest.raises(ValueError, match=message):
        settings_of(drawn[0], **changes)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[1, 2", "is no JSON"),
        ("a.json", '{"a": 1}', "not a list of entries"),
        ("a.csv", "1", "are .json, .jsonl or .parquet"),
        ("a.json", "[1, 2]", r"None of 2 entries .*entry 0 of .*a\.json"),
        ("a.json", "[]", r"There are no entries in .*a\.json"),
        (None, "", "no source"),
    ],
)
def test_sources_that_cannot_be_read(tmp_path, name, content, message):
    file = tmp_path / (name or "none.json")
    if name:
        file.write_text(content)
    with pytest.raises(ValueError, match=message):
        convert(ConversionSettings(sources=(str(file),)), tmp_path / "out")


def test_what_is_there_already_is_not_touched(drawn, converted, tmp_path):
    with pytest.raises(ValueError, match="holds a converted data set already"):
        convert(settings_of(drawn[0]), converted)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="is not empty"):
        convert(settings_of(drawn[0]), tmp_path)


def test_damage_names_shard_and_row(converted, tmp_path):
    copy = shutil.copytree(converted, tmp_path / "copy")
    manifest = read_manifest(copy)
    file = copy / manifest.shards[1].images.file
    damage(file)
    assert verify_shards(manifest, manifest.shards[1]) == [file.name]
    data = ConversationSet(manifest)
    message = r"images-00001\S*, row \d+ is damaged"
    with pytest.raises(DamagedRecordError, match=message):
        [data.sample(row) for row in range(89, 89 + 88)]
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="has 1000 of"):
        read_manifest(copy)
    (copy / MANIFEST).write_text('{"format": 1}')
    with pytest.raises(ValueError, match="Convert again"):
        read_manifest(copy)
