"""A file that git-lfs left out is called that, wherever it is read."""

import pytest

from tests.checkpoints.hf.weights.test_weights_folder import POINTER
from tests.data.conversations import conversation_set
from visor_jax.checkpoints.hf.processor_files import read_processor
from visor_jax.checkpoints.hf.read_config import read_config_json
from visor_jax.data.conversations.converting import sources
from visor_jax.data.conversations.converting.item_checks import (
    BadItemError,
    ImageFolder,
    read_item,
)
from visor_jax.data.images.read_image import read_image
from visor_jax.runtime.lfs_pointer import check_not_pointer, is_pointer


def test_a_pointer_is_told_from_other_texts(tmp_path):
    assert is_pointer(POINTER.encode())
    assert not is_pointer(b"version 2")
    assert not is_pointer(b"")
    for content in ("version 2", "", "\x89PNG"):
        (tmp_path / "a").write_text(content)
        check_not_pointer(tmp_path / "a")
    check_not_pointer(tmp_path / "absent")
    check_not_pointer(tmp_path)
    (tmp_path / "a").write_text(POINTER)
    with pytest.raises(ValueError, match="git lfs pull") as error:
        check_not_pointer(tmp_path / "a")
    assert f"in {tmp_path} " in str(error.value)


def test_files_of_a_checkpoint(tmp_path):
    (tmp_path / "config.json").write_text(POINTER)
    with pytest.raises(ValueError, match=r"config\.json is a pointer of git-lfs"):
        read_config_json(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        folder = conversation_set.save_processor(tmp_path / name)
        (folder / name).write_text(POINTER)
        with pytest.raises(ValueError, match=rf"{name} is a pointer of git-lfs"):
            read_processor(conversation_set.NETWORK, folder)


def test_images_and_sources(tmp_path):
    (tmp_path / "a.png").write_text(POINTER)
    for image in (tmp_path / "a.png", POINTER.encode()):
        with pytest.raises(ValueError, match="is a pointer of git-lfs"):
            read_image(image)
    turns = [
        {"from": "human", "value": "<image>\nWhy?"},
        {"from": "gpt", "value": "So."},
    ]
    entry = {"conversations": turns, "image": "a.png"}
    with pytest.raises(BadItemError, match=r"broken image.*pointer of git-lfs"):
        read_item(entry, ImageFolder(tmp_path))
    (tmp_path / "train.json").write_text(POINTER)
    with pytest.raises(ValueError, match=r"train\.json is a pointer of git-lfs"):
        sources.find_sources([str(tmp_path / "train.json")])
