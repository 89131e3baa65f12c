"""The account against the compiler's own cost analysis, at full size, nothing run.

The compiler also counts elementwise work, which is small beside products this wide. It
counts the body of a loop once: attention is in the plain form, as in the account.
"""

import jax
import pytest

from tests.flops import abstract_model
from visor_jax.budget import Budget
from visor_jax.flops.account import account
from visor_jax.models.config import VLMConfig
from visor_jax.models.variants import dense, llava_ov_0p5b

TOLERANCE = 0.02
LENGTHS = {"text_tokens": 100, "image_tokens": 2929, "batch": 1}


def _xla_flops(config: VLMConfig, budget: Budget, crops: int) -> float:
    inputs = abstract_model.abstract_batch(config, crops=crops, **LENGTHS)
    params = abstract_model.abstract_params(config, inputs)
    program = abstract_model.forward(config, budget.gates(config.plan))
    return jax.jit(program).lower(params, inputs).cost_analysis()["flops"]


@pytest.mark.parametrize("name", ["none", "all", "dense"])
def test_account_is_within_two_percent_of_xla(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visor_jax.ops.kernels.plain.LONGEST_PLAIN", 10**9)
    config = llava_ov_0p5b()
    config = dense(config) if name == "dense" else config
    budget = Budget.none() if name == "none" else Budget.all(config.plan)
    one, two = (_xla_flops(config, budget, crops) for crops in (1, 2))
    ours = account(config, budget, crops=1, **LENGTHS)
    # A second crop costs the tower and projector alone, which separates the two parts.
    tower, llm = two - one, one - (two - one)
    assert one == pytest.approx(ours.end_to_end, rel=TOLERANCE)
    assert tower == pytest.approx(ours.tower.total + ours.projector, rel=TOLERANCE)
    assert llm == pytest.approx(ours.llm_prefill, rel=TOLERANCE)
