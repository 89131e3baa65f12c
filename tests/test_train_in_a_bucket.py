"""A run that lives in a bucket: the same files and bits as one on this machine.

The storage itself ends the run, in the middle of what it is asked to write.
"""

import json
import os
import re
import signal

import pytest

from configs import universal
from tests.fake_storage import fake_storage
from tests.training_processes import FLAGS, Commands, check_same_network
from visor_jax import train
from visor_jax.checkpoints import layout
from visor_jax.evaluate import evaluate_checkpoints
from visor_jax.runtime.interruption import Interruption
from visor_jax.runtime.user_error import UserError

STEPS = 16
FLAGS = (
    *FLAGS,
    f"--config.loop.steps={STEPS}",
    "--config.loop.log_every=1",
    "--config.loop.checkpoint_every=4",
)
RUN = "runs/a"
# Seconds for one start, on a machine that has other things to do.
PATIENCE = 1200


@pytest.fixture(scope="module")
def storage():
    with fake_storage("bucket") as storage:
        yield storage


@pytest.fixture(scope="module")
def commands(storage, tmp_path_factory):
    with Commands(tmp_path_factory.mktemp("commands")) as commands:
        yield commands


def flags_of(workdir, cache):
    return (*FLAGS, f"--workdir={workdir}", f"--config.data.cache={cache}")


def killed_at(commands, storage, flags, method, pattern, *, nth=1):
    """Returns how a run ended that is killed at its nth request of that kind."""
    matching, killed = [], []

    def refuse(asked, name):
        if asked == method and re.fullmatch(f"{RUN}/{pattern}", name):
            matching.append(name)
            if len(matching) == nth:
                killed.append(os.kill(child.pid, signal.SIGKILL))
        # What it asks for in its last moment does not get there.
        return 403 if killed else None

    storage.refuses = refuse
    child = commands.start(*flags)
    ended = child.wait(PATIENCE)
    storage.refuses = lambda method, name: None
    assert ended.code == -signal.SIGKILL, ended.err
    return ended


def finished(storage):
    names = storage.names("bucket", f"{RUN}/checkpoints/")
    found = (re.fullmatch(r"(\d+)/commit_success\.txt", name) for name in names)
    return sorted(int(each[1]) for each in found if each)


def test_whatever_ends_it_the_run_ends_as_one_on_this_machine(
    commands, storage, tmp_path
):
    place, cache = f"gs://bucket/{RUN}", tmp_path / "cache"
    flags = flags_of(place, cache)
    # In its first checkpoint, of which nothing is left but pieces.
    killed_at(commands, storage, flags, "POST", r"checkpoints/4/params/ocdbt.*/d/.*")
    assert finished(storage) == []
    with pytest.raises(ValueError, match="holds only half-written checkpoints"):
        layout.find_steps(place)
    with pytest.raises(ValueError, match=r"checkpoints/4 is half written"):
        layout.find_steps(f"{place}/checkpoints/4")
    # With metrics in the bucket that belong to no checkpoint.
    killed_at(commands, storage, flags, "POST", r"checkpoints/8/optimizer/.*")
    assert finished(storage) == [4]
    assert len(storage.read("bucket", f"{RUN}/metrics.jsonl").splitlines()) == 8

    # A write that fails half way: the last checkpoint is there and is gone on from.
    def refuse(method, name):
        is_write = method == "POST" and "checkpoints/12/optimizer/ocdbt" in name
        return 403 if is_write else None

    storage.refuses = refuse
    failed = commands.start(*flags).wait(PATIENCE)
    storage.refuses = lambda method, name: None
    assert failed.code == 1, failed.err
    assert "going on from step 4" in failed.err
    message = failed.err.splitlines()[-1]
    assert message.startswith(
        f"error: Writing a checkpoint to {place}/checkpoints fail"
    )
    assert "refused by the test). Checkpoints finished before are intact" in message
    assert "Traceback" not in failed.err
    assert [step.name for step in layout.find_steps(place)] == ["8", "4"]
    # While an old checkpoint is removed.
    killed = killed_at(commands, storage, flags, "DELETE", r"checkpoints/4/.*")
    assert "going on from step 8" in killed.err

    ended = commands.start(*flags).wait(PATIENCE)
    assert ended.code == 0, ended.err
    assert re.search(r"going on from step (8|12)\b", ended.err)
    assert re.search(
        rf"{place}: drawn pages.* stay on this machine, in {cache}", ended.err
    )
    straight = commands.start(*flags_of(tmp_path / "straight", cache))
    assert straight.wait(PATIENCE).code == 0
    check_same_run(storage, tmp_path / "straight", tmp_path / "copied")
    # The same parameters answer the same; here they are read from the bucket.
    report = evaluate_checkpoints([place], pages=2)
    assert {row["budget"] for row in report["rows"]} == {"sa0", "sa1:1"}
    written = json.loads(storage.read("bucket", f"{RUN}/report/report.json"))
    assert written == report
    assert "report.md" in storage.names("bucket", f"{RUN}/report/")


def check_same_run(storage, straight, copied):
    for name in storage.names("bucket", f"{RUN}/"):
        file = copied / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(storage.read("bucket", f"{RUN}/{name}"))
    check_same_network(copied, straight)
    lines = (copied / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))
    files = [file for file in straight.rglob("*") if file.is_file()]
    here = [file.relative_to(straight).as_posix() for file in files]
    in_bucket = storage.names("bucket", f"{RUN}/")
    assert of_every_run(in_bucket) == of_every_run(here)


def of_every_run(names):
    """Returns names of files, but for what differs from one start to the next."""
    for pattern, word in (
        (r".*/commit_success\.txt$", ""),
        (r"(?<=/events\.out)\..*", ""),
        (r"(?<=/d/)[0-9a-f]{32}$", "ARRAYS"),
    ):
        names = [re.sub(pattern, word, name) for name in names]
    return sorted({name for name in names if name})


def test_what_cannot_be_used_is_refused_before_any_work(storage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = universal.get_config()
    with pytest.raises(UserError, match="there is no bucket 'absent'"):
        train.prepare(config, "gs://absent/run", Interruption())
    config.data.cache = "gs://bucket/cache"
    with pytest.raises(
        ValueError, match=r"cache is not on this machine: --config\.data"
    ):
        train.prepare(config, tmp_path / "run", Interruption())
    assert not list(tmp_path.iterdir())
