"""Budgets of a network that was not trained for any, found on a few prompts.

What was measured is kept beside the file, so that a run that was stopped goes on.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visor_jax.analysis.budget_sweep import Sweep, write_budget_file
from visor_jax.analysis.divergence import Divergence
from visor_jax.analysis.layer_lowering import lower_layers
from visor_jax.budget import Budget
from visor_jax.data.prompts.sample import Sample
from visor_jax.flops.account import account
from visor_jax.inference.loading.network import Network
from visor_jax.runtime import atomic_write

# Called with how many budgets have been measured.
Progress = Callable[[int], None]


def calibrate(
    network: Network,
    samples: Sequence[Sample],
    file: Path,
    *,
    limit: int,
    margin: float,
    facts: Mapping[str, Any],
    progress: Progress = lambda count: None,
) -> Sweep:
    """Returns what was measured, after writing what pays to the file.

    Args:
      samples: prompts; the mean of their FLOPs is a budget's cost.
      limit: at most so many budgets are measured.
      margin: nats by which a dearer budget must be closer to everything on.
      facts: JSON values that say which prompts these are.

    Raises:
      ValueError: for too small a limit, prompts without an image, a network whose
        logits are not finite, or measurements of other prompts or another network
        beside the file.
    """
    plan = network.config.plan
    if not any(sample.num_image_tokens for sample in samples):
        raise ValueError(
            f"None of the {len(samples)} prompts has an image, and budgets differ in "
            "what is done with it alone: give requests with images."
        )
    settings = {**facts, "network": network.fingerprint, "prompts": len(samples)}
    memory = _Measured(file.with_suffix(".measured.json"), settings)
    divergence = Divergence(network, samples)

    def measure(budgets: Sequence[Budget]) -> list[float]:
        found = []
        for budget in budgets:
            if budget.name not in memory.found:
                (value,) = divergence([budget])
                memory.keep(budget.name, value)
            found.append(memory.found[budget.name])
            progress(len(memory.found))
        return found

    lowering = lower_layers(plan, measure, mean_cost(network, samples), limit=limit)
    possible = 3 ** len(plan.self_layers)
    done = Sweep(plan=plan, scored=lowering.scored, possible=possible, margin=margin)
    path = [budget.name for budget in lowering.path]
    write_budget_file(file, file.stem, done, **settings, path=path)
    return done


def mean_cost(network: Network, samples: Sequence[Sample]) -> Callable[[Budget], float]:
    """Returns what gives a budget's LLM prefill FLOPs, mean over the samples."""
    lengths = [(s.num_text_tokens, s.num_image_tokens) for s in samples]

    @functools.cache
    def cost(budget: Budget) -> float:
        each = {
            (text, image): account(
                network.config,
                budget,
                text_tokens=text,
                image_tokens=image,
                crops=0,
                logit_positions=1,
            ).llm_prefill
            for text, image in set(lengths)
        }
        return float(np.mean([each[pair] for pair in lengths]))

    return cost


class _Measured:
    """Divergences that were measured, on disk as soon as they are known."""

    def __init__(self, file: Path, settings: Mapping[str, Any]) -> None:
        self._file, self._settings = file, json.loads(json.dumps(settings))
        self.found: dict[str, float] = {}
        if not file.exists():
            return
        try:
            content = json.loads(file.read_text())
            settings, found = dict(content["settings"]), content["divergence"]
            self.found = {name: float(value) for name, value in found.items()}
        except (AttributeError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is not readable ({error}): remove it.") from error
        if settings != self._settings:
            differing = {
                key: (settings.get(key), self._settings.get(key))
                for key in sorted(settings.keys() | self._settings.keys())
                if settings.get(key) != self._settings.get(key)
            }
            raise ValueError(
                f"{file} holds what was measured with other settings (there, here): "
                f"{differing}. Give another --name, or remove it."
            )

    def keep(self, name: str, value: float) -> None:
        self.found[name] = value
        content = {"settings": self._settings, "divergence": self.found}
        atomic_write.write_json(self._file, content)
