"""Where commands write: a bucket's address would become a folder of that name here.

What can write there is tried in `test_train_in_a_bucket`.
"""

import pytest

from tests import own_flags
from visor_jax import answer, sweep
from visor_jax.convert import data


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (answer, ("--checkpoint=run", "--input=a.jsonl", "--output=gs://b/out.jsonl")),
        (sweep, ("--checkpoint=run", "--out=gs://b/budgets")),
        (data, ("--sources=a.json", "--out=gs://b/set")),
        (data, ("--verify=gs://b/set",)),
    ],
)
def test_a_bucket_is_refused_before_any_work(
    command, arguments, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        own_flags.call(command, *arguments)
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert "is not on this machine" in said
    assert "mount the bucket" in said
    assert not list(tmp_path.iterdir())
