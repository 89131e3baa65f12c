"""`python -m visor_jax.convert.easy_vqa`: it writes what is asked and trained."""

import importlib.util

import numpy as np
import pytest

from configs import easy_vqa as config_file
from configs import policy as policy_config
from tests import own_flags
from tests.data.easy_vqa import made_up
from visor_jax.convert import easy_vqa
from visor_jax.data.conversations.conversation_set import ConversationSet
from visor_jax.data.conversations.mixture import read_mixture
from visor_jax.data.easy_vqa.questions import DEV, TRAIN, read_split
from visor_jax.data.prompts.request import Request
from visor_jax.evals.benchmarks.easy_vqa import EASY_VQA, EASY_VQA_DEV
from visor_jax.evals.tables.table_benchmark import TableBenchmark
from visor_jax.runtime.interruption import Interruption
from visor_jax.settings.read import read_settings
from visor_jax.tasks import training_data

ROWS = 3


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return made_up.write(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def out(package, tmp_path_factory):
    folder = tmp_path_factory.mktemp("easy") / "out"
    arguments = (f"--out={folder}", f"--package={package}", "--processes=1")
    own_flags.call(easy_vqa, *arguments)
    return folder


def run_settings(out, preset="universal"):
    config = config_file.get_config(preset)
    config.data.update(
        path=str(out / "train"), processor=str(out / "processor"), batch_size=ROWS
    )
    config.data.mirrors = False
    config.loop.steps = 2
    config.optimizer.warmup_steps = 1
    return read_settings(config)


def test_tables_are_the_benchmark(out, package):
    benchmark = TableBenchmark.open(EASY_VQA, out)
    questions = list(benchmark.questions.values())
    assert [q.id for q in questions] == [f"test-{n}" for n in range(8)]
    assert questions[0].prompt == (
        "what color is the shape?\nAnswer the question using a single word or phrase."
    )
    assert [q.group for q in questions] == ["0"] * 4 + ["1"] * 4
    assert {q.category for q in questions} == {"colour", "shape", "yes_no", "negated"}
    for example in benchmark.examples():
        file = package / "test/images" / f"{example.cluster}.png"
        assert example.request.images == [file.read_bytes()]
        assert benchmark.score(example, f"{example.references[0]}. ") == {
            "exact match": 1.0
        }
    assert len(TableBenchmark.open(EASY_VQA_DEV, out)) == 4


def test_a_sample_is_the_question_as_it_is_asked(out, package, tmp_path):
    settings = run_settings(out)
    data = training_data.open_conversations(
        settings, cache=tmp_path, interruption=Interruption()
    )
    processor = training_data._processor(settings)
    (entry,) = read_mixture(settings.data.path, seed=0)
    assert len(entry.rows) == 4 * 3
    picture = (package / "train/images/0.png").read_bytes()
    prompt = "what color is the shape?\n" + (
        "Answer the question using a single word or phrase."
    )
    parts = [{"type": "image"}, {"type": "text", "text": prompt}]
    asked = processor.sample(
        Request([{"role": "user", "content": parts}], [picture]), room=4
    )
    found, row = data.samples.find(0)
    trained = data.processor.sample(found.sample(row))
    count = asked.num_text_tokens
    np.testing.assert_array_equal(trained.layout.tokens[:count], asked.layout.tokens)
    np.testing.assert_array_equal(trained.crops, asked.crops)
    assert trained.layout.loss_mask[:count].sum() == 1
    # One token, the end of the turn, and the line break behind it without a loss.
    answer = trained.layout.tokens[count : count + 2].tolist()
    assert processor.text(answer) == "red"
    assert answer[1] in processor.eos_ids
    assert trained.layout.loss_mask.sum() == 2
    assert (asked.num_crops, asked.num_image_tokens) == (2, 105)
    assert settings.model.decoder.vocab_size >= len(processor.tokenizer)


def test_a_row_is_a_picture_with_all_that_is_asked_about_it(out, tmp_path):
    data = training_data.open_conversations(
        run_settings(out, "dense"), cache=tmp_path, interruption=Interruption()
    )
    batch = data.example()
    assert batch.tokens.shape == (ROWS, 256)
    assert batch.image_mask.shape == (ROWS, 128)
    # There are four about each.
    assert batch.text_segments.max(axis=1).tolist() == [4] * ROWS
    assert np.any(batch.pixels[0] != batch.pixels[1])
    assert batch.loss_mask.sum() == 2 * 4 * ROWS


def test_a_policy_learns_from_pictures_that_the_network_has_not_seen(out, package):
    config = policy_config.get_config("straight_through,easy_vqa")
    assert config.data.path == "data/easy_vqa/dev"
    for split in (TRAIN, DEV):
        (entry,) = read_mixture(str(out / split), seed=0)
        data = ConversationSet(entry.manifest)
        found = {data.conversation(int(row)).id for row in entry.rows}
        assert found == {each.id for each in read_split(package, split)}


def test_mistakes_are_told(out, tmp_path, capsys, monkeypatch):
    with pytest.raises(ValueError, match="make it by python -m"):
        TableBenchmark.open(EASY_VQA, tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for extra, why in (
        ([f"--out={tmp_path / 'a'}"], "pip install -e '.[easy-vqa]'"),
        ([f"--out={tmp_path / 'a'}", f"--package={tmp_path}"], "questions.json"),
        (["--out=gs://bucket/x"], "gs://"),
    ):
        with pytest.raises(SystemExit) as stopped:
            own_flags.call(easy_vqa, *extra)
        assert stopped.value.code == 2
        assert why in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"Unknown preset 'mini'"):
        config_file.get_config("mini")
