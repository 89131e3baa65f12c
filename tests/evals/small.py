"""A network for pages that compiles in a moment, and results made up for reports."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.tiny import params_of
from visor_jax.budget import BudgetSet
from visor_jax.data.pages.processor import page_processor
from visor_jax.data.pages.questions import QUESTIONS
from visor_jax.data.pages.tokenizer import page_tokenizer
from visor_jax.data.pages.words import EOS, PROMPT_END, TOKEN_ID
from visor_jax.evals.pages.benchmark import PROMPT_LENGTHS, PageBenchmark
from visor_jax.evals.recorder import Recorder
from visor_jax.evals.report.rows import EvaluatedRun, RunFacts
from visor_jax.inference.loading.network import Network
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.config import (
    AdapterConfig,
    DecoderConfig,
    VisionConfig,
    VLMConfig,
)
from visor_jax.models.variants import dense

CONFIG = VLMConfig(
    vision=VisionConfig(
        width=16, mlp_width=24, num_layers=1, num_heads=2, image_size=96, patch_size=8
    ),
    decoder=DecoderConfig(
        vocab_size=64,
        width=16,
        mlp_width=24,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        rope_theta=1e4,
    ),
    adapter=AdapterConfig(num_kv_heads=2),
    plan=LayerPlan.build(3, cross=(0, 2), self_=(1,)),
    image_newline=False,
    grid_embedding=True,
)
BUDGETS = BudgetSet.parse(["none", "all"], CONFIG.plan)


def answering_params(seed: int = 0) -> dict:
    """Returns parameters of `CONFIG` with which every prompt is answered by one word.

    Which of the answers' words depends on the page and the question, so that some are
    right. The final norm turns two features round: one goes from ":" to words, one from
    words to the end.
    """
    params = jax.tree.map(np.array, params_of(CONFIG, seed)["params"])
    decoder = params["language_model"]
    table = decoder["embed_tokens"]["embedding"]
    words = sorted({TOKEN_ID[word] for q in QUESTIONS for word in q.words})
    table[:, :2] = 0
    table[TOKEN_ID[PROMPT_END], :2] = -4, 0
    table[words, :2] = 3, -5
    table[TOKEN_ID[EOS], :2] = -4, 5
    decoder["norm"]["scale"][:2] = -1
    return jax.tree.map(jnp.asarray, params)


def network(params: dict, budgets: BudgetSet = BUDGETS, **fields) -> Network:
    """Returns a network of `CONFIG`, as one that was read from a checkpoint."""
    return Network(
        config=CONFIG,
        params=params,
        budgets=budgets,
        processor=page_processor(page_tokenizer()),
        metadata={},
        **fields,
    )


def made_up_run(
    benchmark: PageBenchmark,
    label: str,
    *,
    seed: int = 0,
    right: float = 0.7,
    config: VLMConfig = CONFIG,
) -> EvaluatedRun:
    """Returns a run whose answers are right with the given probability."""
    config = dense(config) if label == "dense" else config
    names = ["none", "all"] if label == "universal" else [label.partition(":")[2]]
    budgets = BudgetSet.parse([name or "all" for name in names], config.plan)
    rng = np.random.default_rng(seed)
    recorder = Recorder(config, budgets, benchmark)
    examples = list(benchmark.examples())
    numbers = [recorder.ask(example) for example in examples]
    for row in range(len(budgets)):
        correct = (rng.random(len(examples)) < right).tolist()
        for number, example, is_right in zip(numbers, examples, correct, strict=True):
            answer = example.references[0] if is_right else "bar"
            recorder.answer(number, example, row, answer, PROMPT_LENGTHS)
    return EvaluatedRun(
        label=label,
        facts=RunFacts(preset="mini", seed=seed, train_steps=100, wall_clock_s=61.0),
        network=f"{label} {seed}",
        predictions=recorder.predictions(),
        ms_per_sample={budget: 1.0 + seed for budget in budgets},
    )
