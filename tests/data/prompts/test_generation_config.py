"""What a folder asks for beyond its end tokens: said once, read where it is wanted."""

import json
import logging

import pytest

from tests.data import tiny_llava
from tests.data.conversations import conversation_set
from visor_jax import Sampling
from visor_jax.checkpoints.hf.processor_files import read_processor

NETWORK = conversation_set.NETWORK
# As the published checkpoints have it.
PUBLISHED = {
    "do_sample": True,
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.8,
    "repetition_penalty": 1.1,
    "eos_token_id": [tiny_llava.END],
    "pad_token_id": tiny_llava.PAD,
    "transformers_version": "4.45.0",
}


@pytest.fixture
def folder(tmp_path):
    return conversation_set.save_processor(tmp_path / "model")


def write(folder, **fields):
    (folder / "generation_config.json").write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            PUBLISHED,
            {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1},
        ),
        # Defaults of transformers, which leaves them out of the file.
        ({"do_sample": True}, {"temperature": 1.0, "top_k": 50}),
        ({"do_sample": True, "top_k": 0, "top_p": 1.0}, {"temperature": 1.0}),
        (
            {"do_sample": True, "min_p": None, "num_beams": 1},
            {"temperature": 1.0, "top_k": 50},
        ),
        # Without sampling these say nothing.
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.8, "min_p": 0.1}, {}),
        ({"temperature": 0.7, "top_k": 20}, {}),
        ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"eos_token_id": 5, "suppress_tokens": []}, {}),
    ],
)
def test_sampling_of_a_folder(folder, fields, expected, caplog):
    write(folder, **fields)
    assert Sampling.from_checkpoint(folder) == Sampling(**expected)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            read_processor(NETWORK, folder)
    said = [m for m in caplog.messages if "generation_config.json asks for" in m]
    assert len(said) == bool(expected)
    for name, value in expected.items():
        assert f"{name}={value!r}" in said[0]


def test_end_tokens_are_used_as_before(folder, caplog):
    write(folder, eos_token_id=[7, 9])
    with caplog.at_level(logging.WARNING):
        assert set(read_processor(NETWORK, folder).eos_ids) == {7, 9}
    assert not caplog.messages


def test_without_a_file_the_likeliest_token_is_taken(folder, tmp_path):
    assert Sampling.from_checkpoint(folder) == Sampling()
    # A workdir keeps such files beside its checkpoints.
    (tmp_path / "run").mkdir()
    folder.rename(tmp_path / "run/tokenizer")
    write(tmp_path / "run/tokenizer", do_sample=True, temperature=0.5)
    expected = Sampling(temperature=0.5, top_k=50)
    assert Sampling.from_checkpoint(str(tmp_path / "run")) == expected
    with pytest.raises(ValueError, match="is no folder"):
        Sampling.from_checkpoint(tmp_path / "gone")


@pytest.mark.parametrize(
    "fields",
    [
        {"num_beams": 4},
        {"no_repeat_ngram_size": 3},
        {"do_sample": True, "min_p": 0.1},
        {"suppress_tokens": [3]},
    ],
)
def test_what_is_not_computed_is_refused_and_said(folder, fields, caplog):
    write(folder, **fields)
    name, value = list(fields.items())[-1]
    with pytest.raises(ValueError, match="not computed here") as error:
        Sampling.from_checkpoint(folder)
    assert f"{name}={value!r}" in str(error.value)
    with caplog.at_level(logging.WARNING):
        read_processor(NETWORK, folder)
    assert any(f"{name}={value!r}" in m for m in caplog.messages)


def test_a_damaged_file_is_named(folder):
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"generation_config\.json is damaged"):
        Sampling.from_checkpoint(folder)


def test_a_missing_image_processor_is_said_with_what_is_assumed(folder, caplog):
    def read():
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            settings = read_processor(NETWORK, folder).prompts.images
        return settings, [m for m in caplog.messages if "preprocessor_config" in m]

    _, said = read()
    assert not said
    for name in ("preprocessor_config.json", "processor_config.json"):
        (folder / name).unlink(missing_ok=True)
    settings, said = read()
    assert settings.mean == settings.std == (0.5, 0.5, 0.5)
    assert len(said) == 1
    assert str(folder) in said[0]
    assert "image_mean and image_std 0.5" in said[0]
