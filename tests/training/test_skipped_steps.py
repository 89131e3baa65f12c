import json

import jax.numpy as jnp

from visor_jax.training.skipped_steps import (
    SKIPPED,
    SkippedStepsFile,
    TooManySkippedSteps,
)
from visor_jax.training.state import SkippedSteps


def record(*steps: int) -> SkippedSteps:
    skipped = SkippedSteps.none()
    for step in steps:
        skipped = skipped.add(jnp.int32(step), jnp.array(True))
    return skipped


def test_the_file_names_every_skipped_step_and_its_rows(tmp_path):
    file = SkippedStepsFile(tmp_path, batch_size=16, limit=2)
    assert file.note(record()) == 0
    assert not (tmp_path / SKIPPED).exists()
    assert file.note(record(3)) == 1
    assert file.too_many() is None
    # A run that went on from a checkpoint before step 7 meets it again.
    for _ in range(2):
        file = SkippedStepsFile(tmp_path, batch_size=16, limit=2)
        assert file.note(record(3, 7)) == 2
    assert json.loads((tmp_path / SKIPPED).read_text()) == {
        "count": 2,
        "steps": [{"step": 3, "rows": [32, 48]}, {"step": 7, "rows": [96, 112]}],
    }
    assert file.too_many() is None
    file.note(record(3, 7, 8))
    reason = file.too_many()
    assert isinstance(reason, TooManySkippedSteps)
    assert "3 steps were skipped" in str(reason)
    assert str(tmp_path / SKIPPED) in str(reason)


def test_more_steps_than_the_state_remembers_stay_in_the_file(tmp_path):
    file = SkippedStepsFile(tmp_path, batch_size=1, limit=10**6)
    kept = SkippedSteps.KEPT
    file.note(record(*range(1, kept + 1)))
    file.note(record(*range(1, kept + 4)))
    written = json.loads((tmp_path / SKIPPED).read_text())
    assert [each["step"] for each in written["steps"]] == list(range(1, kept + 4))


def test_only_the_first_process_writes(tmp_path):
    file = SkippedStepsFile(tmp_path, batch_size=1, limit=0, enabled=False)
    assert file.note(record(5)) == 1
    assert isinstance(file.too_many(), TooManySkippedSteps)
    assert not (tmp_path / SKIPPED).exists()
