"""What a network makes of batches: logits of one, answers to however many samples."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.processor import Processor
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.sample import Sample
from visor_jax.data.prompts.sampling import Sampling
from visor_jax.data.prompts.stop_tokens import cut_at_end
from visor_jax.inference.confidence import confidence, written_length
from visor_jax.inference.generation.decode import decode, decode_scored
from visor_jax.inference.generation.finite import check_written
from visor_jax.inference.generation.generate import keys_of_rows
from visor_jax.inference.loading.network import Network
from visor_jax.inference.prefilled_parts import (
    PrefilledPart,
    looking_again,
    prefilled_parts,
)
from visor_jax.inference.routing.cascade import Cascade
from visor_jax.inference.routing.choose_budgets import BudgetChoice
from visor_jax.layer_plan import StaticGate
from visor_jax.models.vlm import VLM
from visor_jax.sharding.programs import mesh_jit

Params = Any


@mesh_jit(static_argnames=("model", "gates"))
def batch_logits(
    params: Params, batch: Batch, *, model: VLM, gates: tuple[StaticGate, ...]
) -> Float[Array, "B T W"]:
    """Returns float32 logits of all text tokens, those of padding among them."""
    return model.apply({"params": params}, batch, gates).logits


def samples_of(
    processor: Processor, requests: Sequence[Request], *, room: int
) -> list[Sample]:
    """Returns the requests as the network takes them.

    Args:
      room: tokens of an answer that the context must have room for, where a request
        says no other number.

    Raises:
      ValueError: as `Processor.sample`.
    """
    return [
        processor.sample(request, room=request.options.max_new_tokens or room)
        for request in requests
    ]


def samples_for(
    network: Network, requests: Sequence[Request], *, room: int
) -> list[Sample]:
    """Returns what `samples_of` does, each request with the crops that it asks for.

    Raises:
      ValueError: as `Processor.sample` and `Network.looking_at`.
    """
    shown = {None: network.processor}
    for crops in dict.fromkeys(request.options.crops for request in requests):
        if crops is not None:
            shown[crops] = network.looking_at(crops).processor
    return [
        sample
        for request in requests
        for sample in samples_of(shown[request.options.crops], [request], room=room)
    ]


def answer_samples(
    choice: BudgetChoice,
    processor: Processor,
    samples: Sequence[Sample],
    budgets: Sequence[Budget | Cascade | None],
    *,
    cost: float = 0.0,
    batch_size: int,
    options: Sequence[AnswerOptions],
    max_new_tokens: int,
    sampling: Sampling,
    key: Array | None,
    stop: Sequence[str] = (),
) -> list[str]:
    """Returns the answers, in the order of the samples.

    Samples of one budget and about one size are answered together.

    Args:
      budgets: of each sample; None for what the policy chooses. cost: see `choose`. A
        cascade's samples are answered in its first budget, then those that are unsure
        in its second, together.
      options: of each sample; they go before what is said of all. Budgets are not read
        there.
      key: of all draws; a sample's own does not depend on which are beside it.
    """
    limits = [each.max_new_tokens or max_new_tokens for each in options]
    settings = [each.sampling or sampling for each in options]
    answers = _Answers(
        choice=choice,
        processor=processor,
        limits=limits,
        settings=settings,
        keys=keys_of_samples(key, options, settings),
        stops=[each.stop or stop for each in options],
        found=[""] * len(samples),
    )
    costs = choice.costs_of(len(samples), cost, options)
    for part in prefilled_parts(
        choice, samples, budgets, limits, costs=costs, batch_size=batch_size
    ):
        unsure = answers.add(part)
        if unsure:
            answers.add(looking_again(choice, part, unsure, limits))
    return answers.found


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Answers:
    """How each sample is answered, and the answers so far, in their order."""

    choice: BudgetChoice
    processor: Processor
    limits: Sequence[int]
    settings: Sequence[Sampling]
    keys: Key[Array, "B"] | None
    stops: Sequence[Sequence[str]]
    found: list[str]

    def add(self, part: PrefilledPart) -> list[int]:
        """Answers a part; returns its rows of a first look that are unsure."""
        params, processor, rows = self.choice.params, self.processor, part.samples
        write = decode if part.first_look is None else decode_scored
        written = write(
            self.choice.model,
            params,
            part.prompts,
            max_new_tokens=[self.limits[i] for i in rows],
            eos_id=processor.eos_ids,
            pad_id=processor.pad_id,
            sampling=[self.settings[i] for i in rows],
            row_keys=None if self.keys is None else self.keys[rows],
        )
        tokens, log_probs = (written, None) if part.first_look is None else written
        tokens = np.asarray(tokens)
        check_written(tokens, params)
        cut = cut_at_end(tokens, processor.eos_ids)
        for row, own in zip(rows[: part.count], cut, strict=False):
            # Padding follows a row that was at its limit before others.
            own = own[: self.limits[row]]
            self.found[row] = processor.text_before(own, self.stops[row])
        if part.first_look is None:
            return []
        return self._unsure(part, tokens, np.asarray(log_probs))

    def _unsure(
        self,
        part: PrefilledPart,
        tokens: Int[np.ndarray, "B U"],
        log_probs: Float[np.ndarray, "B U"],
    ) -> list[int]:
        """Returns the rows whose answers are not enough, without filler."""
        unsure = []
        for row, sample in enumerate(part.samples[: part.count]):
            own = tokens[row, : self.limits[sample]]
            length = written_length(own, self.processor, self.stops[sample])
            sure = confidence(log_probs[row, :length])
            if part.first_look.cascade.looks_again(sure):
                unsure.append(row)
        return unsure


def keys_of_samples(
    key: Array | None, options: Sequence[AnswerOptions], settings: Sequence[Sampling]
) -> Key[Array, "B"] | None:
    """Returns the key of each sample's draws; None where nobody has one.

    Raises:
      ValueError: for a sample that draws and has neither the common key nor a seed.
    """
    seeds = {i: each.seed for i, each in enumerate(options) if each.seed is not None}
    if key is None:
        for i, sampling in enumerate(settings):
            if not sampling.is_greedy and i not in seeds:
                raise ValueError(
                    f"{sampling} draws at random: give it a key, or the request a seed."
                )
        if not seeds:
            return None
        # For the others, which draw nothing.
        key = jax.random.key(0)
    keys = keys_of_rows(key, len(options))
    for i, seed in seeds.items():
        own = jax.random.key(seed, impl=jax.random.key_impl(key))
        # As in a batch of one.
        keys = keys.at[i].set(keys_of_rows(own, 1)[0])
    return keys
