"""A tiny network and a batch of single questions, as analyses take them."""

import types

import jax

from tests import tiny
from tests.tiny import Sample
from visor_jax.analysis.study import Prompts, Study, prompts_of
from visor_jax.budget import Budget
from visor_jax.evals.benchmark import Example
from visor_jax.inference.loading.network import Network

SAMPLES = (
    Sample(image=12, questions=(4,)),
    Sample(before=3, image=7, questions=(5,)),
    Sample(questions=(6,)),
)


def study_of(config, params=None, budget=None) -> Study:
    """Returns the study of a network with these parameters; None for random ones."""
    network = Network(
        config=config,
        params=tiny.params_of(config)["params"] if params is None else params,
        budgets=tiny.every_budget(config),
        processor=None,
        metadata={},
    )
    benchmark = types.SimpleNamespace(name="made up", groups={}, new_tokens=4)
    budget = Budget.all(config.plan) if budget is None else budget
    return Study(network=network, benchmark=benchmark, budget=budget)


def prompts(study: Study, samples=SAMPLES, seed: int = 5) -> tuple[Prompts, object]:
    """Returns prompts, one example a sample, and their batch."""
    batch = tiny.random_batch(study.network.config, samples, seed=seed)
    examples = tuple(
        Example(id=f"{i}", task="task", cluster=f"{i}", request=None, references=("",))
        for i in range(len(samples))
    )
    with jax.ensure_compile_time_eval():
        return prompts_of(study.network, examples, batch), batch
