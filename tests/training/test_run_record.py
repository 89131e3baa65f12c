import json
import subprocess

import pytest

from configs import universal
from visor_jax.runtime.machine import git_commit, machine_description
from visor_jax.training.run_record import (
    check_same_run,
    write_run_record,
)

CONFIG = {"seed": 0, "model": {"width": 64, "plan": (1, 2)}, "log_every": 10}


def test_record_says_what_ran_where(tmp_path):
    record = write_run_record(tmp_path / "run", CONFIG)
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written == record
    assert written["config"]["model"] == {"width": 64, "plan": [1, 2]}
    [start] = written["starts"]
    assert start["versions"].keys() >= {"python", "jax", "orbax-checkpoint", "grain"}
    assert start["machine"]["description"] == machine_description()
    assert start["machine"]["platform"] in machine_description()
    assert start["git_commit"]
    assert start["time"].endswith("+00:00")


def test_going_on_adds_a_start_and_leaves_nothing_behind(tmp_path):
    for _ in range(2):
        check_same_run(tmp_path, CONFIG)
        record = write_run_record(tmp_path, CONFIG)
    assert len(record["starts"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_another_configuration_is_refused_with_every_difference(tmp_path):
    write_run_record(tmp_path, CONFIG)
    model = {"width": 128, "plan": [1, 2]}
    other = {"seed": 0, "model": model, "log_every": 20, "new": {"key": True}}
    with pytest.raises(ValueError, match="another configuration") as error:
        check_same_run(tmp_path, other, may_change=["log_every"].__contains__)
    lines = str(error.value).splitlines()
    assert lines[1:3] == ["  model.width: 64 -> 128", "  new.key: (absent) -> true"]
    assert str(tmp_path) in lines[0]
    assert "another --workdir" in lines[3]
    with pytest.raises(ValueError, match="log_every: 10 -> 20"):
        check_same_run(tmp_path, {**CONFIG, "log_every": 20})


def test_what_may_change_is_said_and_remembered(tmp_path):
    assert check_same_run(tmp_path, CONFIG) == {}
    write_run_record(tmp_path, CONFIG)
    other = {**CONFIG, "log_every": 20, "pages": None}
    allowed = {"log_every", "pages"}.__contains__
    changes = check_same_run(tmp_path, other, may_change=allowed)
    assert changes == {"log_every": ("10", "20"), "pages": ("(absent)", "null")}
    first, second = write_run_record(tmp_path, other)["starts"]
    assert "changed" not in first
    assert second["changed"] == {k: list(v) for k, v in changes.items()}
    # Now these are the values that the run has.
    assert check_same_run(tmp_path, other) == {}
    assert "changed" not in write_run_record(tmp_path, other)["starts"][2]


def test_keys_that_came_later_say_what_held_before(tmp_path):
    write_run_record(tmp_path, CONFIG)
    earlier = {"model.heads": "all", "gone": 3}
    same = {**CONFIG, "model": {**CONFIG["model"], "heads": "all"}}
    assert check_same_run(tmp_path, same, earlier=earlier) == {}
    other = {**CONFIG, "model": {**CONFIG["model"], "heads": "few"}}
    with pytest.raises(ValueError, match=r'model\.heads: "all" -> "few"'):
        check_same_run(tmp_path, other, earlier=earlier)


def test_a_run_of_other_parameter_groups_is_refused_with_both_patterns(tmp_path):
    config = universal.get_config("llava_ov_0p5b")
    old, new = config.to_dict(), config.to_dict()
    groups = old["optimizer"]["groups"]
    groups["projector"]["pattern"] = "^(projector/|image_newline$)"
    groups["vision_tower"]["learning_rate"] = 1e-6
    write_run_record(tmp_path, old)
    with pytest.raises(ValueError, match="another configuration") as error:
        check_same_run(tmp_path, new)
    assert str(error.value).splitlines()[1:-1] == [
        "  optimizer.groups.projector.pattern: "
        '"^(projector/|image_newline$)" -> "^(multi_modal_projector/|image_newline$)"',
        "  optimizer.groups.vision_tower.learning_rate: 1e-06 -> 2e-06",
    ]
    check_same_run(tmp_path, old)


def test_what_is_not_json_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="must be JSON"):
        write_run_record(tmp_path, {"seed": object()})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"not readable.*another --workdir"):
        check_same_run(tmp_path, CONFIG)


def test_commit_is_of_the_source_and_says_if_it_was_changed(tmp_path):
    def git(*command):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *command],
            check=True,
            capture_output=True,
        )

    source = tmp_path / "a.py"
    source.write_text("1")
    assert git_commit(source) == "unknown"
    git("init")
    assert git_commit(source) == "unknown"
    git("add", "a.py")
    git("commit", "-m", "one")
    clean = git_commit(source)
    assert len(clean) == 40
    source.write_text("2")
    assert git_commit(source) == clean + "-dirty"
