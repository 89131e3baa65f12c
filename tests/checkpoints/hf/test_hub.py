"""Paths and Hub ids, without a network."""

import re

import huggingface_hub
import pytest

import visor_jax
from visor_jax.checkpoints.hf.hub import find_folder, is_hub_id


def test_a_folder_is_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner/name").mkdir(parents=True)
    assert find_folder("owner/name") == tmp_path / "owner/name"


def test_an_id_is_downloaded_without_code_or_pickles(tmp_path, monkeypatch):
    asked = {}

    def download(name, *, revision, allow_patterns):
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_folder("llava-hf/model-0.5b", revision="main") == tmp_path
    assert (asked["name"], asked["revision"]) == ("llava-hf/model-0.5b", "main")
    files = [
        *("model.safetensors", "model.safetensors.index.json", "config.json"),
        *("tokenizer.json", "merges.txt", "chat_template.jinja"),
        *("pytorch_model.bin", "modeling_x.py", "model.pt", "a.pkl", "README.md"),
    ]
    wanted = huggingface_hub.utils.filter_repo_objects(
        files, allow_patterns=asked["patterns"]
    )
    assert list(wanted) == files[:6]


def test_failures_name_the_id(monkeypatch):
    def download(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ValueError, match=r"'a/b' is no folder here.* no route to host"):
        find_folder("a/b")


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "/a/b", "a/b/c", "-a/b"])
def test_neither_path_nor_id(name):
    with pytest.raises(ValueError, match="is no Hub id"):
        find_folder(name)


def test_a_name_in_a_folder_that_is_here_is_never_asked_of_the_hub(
    tmp_path, monkeypatch
):
    def download(*_, **__):
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    for name in ("universal-mini-seed0", "dense", ".hidden"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    runs = re.escape(str(tmp_path / "runs"))
    meant = (
        f"Did you mean {runs}/universal-mini-seed0\\? "
        f"{runs} holds universal-mini-seed0, dense\\.$"
    )
    for find in (find_folder, visor_jax.load):
        with pytest.raises(ValueError, match=meant):
            find("runs/universal-mini-sed0")
    with pytest.raises(ValueError, match=f"{runs} holds dense, universal-mini-seed0"):
        find_folder("runs/x/y/z")
    assert not is_hub_id("runs/typo")
    assert is_hub_id("llava-hf/typo")


def test_a_file_is_no_folder():
    with pytest.raises(ValueError, match="is a file"):
        find_folder(__file__)


def test_remote_folders_are_refused():
    with pytest.raises(ValueError, match="gs://bucket/x is not on this machine"):
        find_folder("gs://bucket/x")
