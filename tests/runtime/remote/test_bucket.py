"""What is said of a bucket that cannot be used, before any work."""

import importlib.util

import pytest

from tests.fake_storage import fake_storage
from visor_jax.checkpoints import layout
from visor_jax.runtime.remote import bucket
from visor_jax.runtime.user_error import UserError


@pytest.fixture
def storage():
    with fake_storage("bucket") as storage:
        yield storage


def test_a_path_is_a_bucket_and_a_name():
    assert bucket.split("gs://bucket/a/b/") == ("bucket", "a/b")
    assert bucket.split("gs://bucket") == ("bucket", "")
    with pytest.raises(UserError, match="s3://b/a is not on this machine"):
        bucket.split("s3://b/a")
    with pytest.raises(UserError, match="gs:///a names no bucket"):
        bucket.split("gs:///a")


def test_a_bucket_is_asked_once(storage):
    asked = []
    storage.refuses = lambda method, name: asked.append(method)
    for path in ("gs://bucket/run", "gs://bucket/other"):
        bucket.check_bucket(path)
    assert asked == ["GET"]
    # Whatever opens a checkpoint begins here.
    assert str(layout.absolute("gs://bucket/run")) == "gs://bucket/run"


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("absent", None, "there is no bucket 'absent': mend the name, or make it"),
        ("bucket", 401, "no credentials .* gcloud auth application-default login"),
        ("bucket", 403, "may not read objects .* roles/storage.objectUser"),
        ("bucket", 400, r"gs://bucket/run cannot be reached \(refused by the test"),
    ],
)
def test_what_is_wrong_with_a_bucket_is_named(storage, caplog, name, status, said):
    storage.refuses = lambda method, name: status
    with pytest.raises(UserError, match=said) as raised:
        layout.find_steps(f"gs://{name}/run")
    assert str(raised.value).startswith(f"gs://{name}/run")
    assert "\n" not in str(raised.value)
    # gcsfs would log a traceback as well.
    assert not caplog.records


def test_the_package_that_is_lacking_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"gcsfs: pip install -e '\.\[gcs\]'"):
        layout.absolute("gs://bucket/run")
