"""The known benchmarks, by name: a new one is a file and a line here.

`tests/evals/benchmarks/test_contract.py` holds each of them to what all have to do.
"""

from visor_jax.evals.benchmarks.chartqa import CHARTQA
from visor_jax.evals.benchmarks.documents import DOCVQA, INFOVQA
from visor_jax.evals.benchmarks.easy_vqa import EASY_VQA, EASY_VQA_DEV
from visor_jax.evals.benchmarks.gqa import GQA
from visor_jax.evals.benchmarks.lettered import (
    AI2D,
    MMSTAR,
    REALWORLDQA,
    SCIENCEQA,
    SEED,
)
from visor_jax.evals.benchmarks.mathvista import MATHVISTA
from visor_jax.evals.benchmarks.mmbench import MMBENCH
from visor_jax.evals.benchmarks.mme import MME
from visor_jax.evals.benchmarks.mmmu import MMMU
from visor_jax.evals.benchmarks.ocrbench import OCRBENCH
from visor_jax.evals.benchmarks.pope import POPE
from visor_jax.evals.benchmarks.vqa import TEXTVQA, VIZWIZ, VQAV2
from visor_jax.evals.tables.definition import Definition

_ALL: tuple[Definition, ...] = (
    *(DOCVQA, INFOVQA, CHARTQA, OCRBENCH, TEXTVQA, GQA, SCIENCEQA, POPE, MME),
    *(MMBENCH, AI2D, REALWORLDQA, MMSTAR, SEED, VQAV2, VIZWIZ, MMMU, MATHVISTA),
    *(EASY_VQA, EASY_VQA_DEV),
)
BENCHMARKS: dict[str, Definition] = {each.name: each for each in _ALL}


def definition_of(name: str) -> Definition:
    """Returns a known benchmark. Raises ValueError for another name."""
    if name not in BENCHMARKS:
        raise ValueError(
            f"There is no benchmark {name!r}; known are {', '.join(BENCHMARKS)}."
        )
    return BENCHMARKS[name]
