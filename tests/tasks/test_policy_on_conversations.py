"""A policy for a network of converted conversations, end to end."""

import flax.traverse_util
import jax
import numpy as np
import pytest

from configs import policy as policy_config
from tests import tiny
from tests.checkpoints.saved import load_checkpoint
from tests.data.conversations import conversation_set
from tests.inference import page_run
from tests.policy_run import mesh_of, run_of
from visor_jax import train
from visor_jax.settings.read import read_settings
from visor_jax.tasks import policy

STEPS = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A converted set of small pictures, and a folder of processor files."""
    folder = tmp_path_factory.mktemp("data")
    conversation_set.draw(folder, 24, sizes=((20, 24),))
    conversation_set.save_processor(folder / "processor")
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The workdir of a universal network with two budgets."""
    return page_run.save(
        tmp_path_factory.mktemp("network"),
        tiny.params_of(conversation_set.NETWORK)["params"],
        model=conversation_set.NETWORK.to_dict(),
        budgets=["sa0", "sa1:0"],
    )


def config_of(network, data, objective="straight_through"):
    config = policy_config.get_config(f"{objective},llava_ov_0p5b")
    config.init_from = str(network)
    config.data.update(
        path=str(data / "converted"),
        processor=str(data / "processor"),
        batch_size=8,
        text_lengths=(192,),
        max_images=2,
        max_length=400,
        workers=0,
    )
    config.scores.update(batches=4, batch_size=4)
    config.optimizer.warmup_steps = 2
    config.loop = {"steps": STEPS, "log_every": 2, "checkpoint_every": 6}
    return config


@pytest.mark.parametrize("objective", ["straight_through", "straight_through_blended"])
def test_a_policy_learns_from_conversations(network, data, tmp_path, objective, capsys):
    config = config_of(network, data, objective)
    run = run_of(config, tmp_path, mesh=mesh_of(1, 1, 1))
    state, done, seconds = train.train(run)
    assert done == STEPS
    policy.report(run, state, seconds)
    assert f"trained {STEPS} steps" in capsys.readouterr().out
    # The network is as it was, the policy is not.
    saved = load_checkpoint(tmp_path)
    before = tiny.params_of(conversation_set.NETWORK)["params"]
    for path, x in flax.traverse_util.flatten_dict(before).items():
        if not path[0].startswith("reading_heads"):
            found = flax.traverse_util.flatten_dict(saved.params)[path]
            np.testing.assert_array_equal(found, x)
    assert np.abs(jax.tree.leaves(saved.params["policy"])[0]).max() > 0
    costs = saved.metadata["policy"]["costs"]
    assert 0 < costs["sa0"] < costs["sa1:0"] == 1


def test_scores_are_of_every_conversation_in_the_rows(network, data, tmp_path):
    run = run_of(config_of(network, data), tmp_path, mesh=mesh_of(1, 1, 1))
    questions = policy.policy_data.policy_questions(run, tmp_path)
    rows = list(questions.rows)
    assert len(rows) == 4
    asked = sum(
        len(np.unique(batch.text_segments[row][batch.loss_mask[row]]))
        for batch in rows
        for row in range(batch.size)
    )
    assert asked >= 16


def test_only_the_assistants_words_may_count(network, data):
    config = config_of(network, data)
    config.data.supervision = "llava_next"
    with pytest.raises(ValueError, match="'llava_next': a policy decides before"):
        read_settings(config)
