"""A tiny network with two budgets, for tests inside lmms-eval."""

import functools
import json
import os

import jax
import pytest

from tests.data import tiny_llava
from tests.data.prompts import prompt_cases
from tests.evals.lmms_eval.local_tasks import BUDGETS
from tests.inference import chat_run
from visor_jax.inference.loading import load

# Its tasks make clients of their judges as they are imported, and openai 3 makes none
# without a key; nobody is asked here.
os.environ.setdefault("OPENAI_API_KEY", "none")


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Programs here run once: optimising them takes longer than it saves."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Returns a workdir with two budgets, which is read once."""
    folder = tmp_path_factory.mktemp("net")
    chat_run.save(folder, prompt_cases.TILES[0], budgets=BUDGETS)
    # Many tokens end an answer: few answers are as long as they may be.
    ends = {"eos_token_id": [tiny_llava.END, *range(0, 256, 11)]}
    file = folder / "workdir/tokenizer/generation_config.json"
    file.write_text(json.dumps(ends))
    once = functools.cache(load.load)
    from visor_jax.evals.lmms_eval import model as plug_in

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "load", once)
        patch.setattr(plug_in, "load", once)
        yield folder / "workdir"
