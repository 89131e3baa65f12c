"""Answers a prompt by its base view, and by all crops where that answer is unsure.

    first look    one crop through the tower, the prompt through the LLM, the answer
    unsure?       the other crops alone through the tower; keys of the first look stay
                  where they are right (`generation.second_look`); the answer once more

A network that was trained on drawn crops is shown the base view with order as if all
crops were there. Any other is shown it as an image of one crop, which it knows; then
text comes near, and of the first look what the tower made of the base view stays.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Key

from visor_jax.budget import Budget
from visor_jax.data.buckets import Bucket
from visor_jax.data.prompts.looking import CropRule, Looking
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.sample import Sample
from visor_jax.data.prompts.sampling import GREEDY, Sampling
from visor_jax.data.prompts.stop_tokens import cut_at_end
from visor_jax.flops.account import Account
from visor_jax.flops.looks import LookLengths, look_account, second_look_account
from visor_jax.inference.batch_answers import keys_of_samples
from visor_jax.inference.confidence import confidence, written_length
from visor_jax.inference.generation.decode import decode_scored
from visor_jax.inference.generation.finite import check_written
from visor_jax.inference.generation.generate import spare_for
from visor_jax.inference.generation.look_difference import (
    LookDifference,
    LookShapes,
    look_difference,
)
from visor_jax.inference.generation.prefill import (
    Prefilled,
    check_context,
    check_prompts,
)
from visor_jax.inference.generation.second_look import (
    SeenImage,
    first_look,
    second_look,
)
from visor_jax.inference.loading.network import Network
from visor_jax.inference.routing.cascade import Cascade
from visor_jax.look import BASE
from visor_jax.look_cascade import LookCascade


@dataclasses.dataclass(frozen=True, kw_only=True)
class LookAnswer:
    """What one look came to.

    crops: that it saw. encoded: how many of them went through the tower for it. flops:
    of this look alone, tower, projector, prefill and its answer.
    """

    text: str
    tokens: tuple[int, ...]
    confidence: float
    crops: tuple[int, ...]
    encoded: int
    flops: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LookedPrompt:
    """One prompt, to be looked at once or twice; `second` goes on from `first`.

    network: that looks at the base view (`Network.looking_at`). key: of its random
    draws, one row.
    """

    network: Network
    request: Request
    budget: Budget
    max_new_tokens: int
    sampling: Sampling = GREEDY
    key: Key[Array, "1"] | None = None
    stop: Sequence[str] = ()

    @functools.cached_property
    def has_tiles(self) -> bool:
        """Whether there is more to see than the first look does."""
        return self._whole.has_tiles

    @functools.cached_property
    def first(self) -> LookAnswer:
        """The answer to the base view, or to all where there are no tiles.

        Raises ValueError for what cannot be read or is too long.
        """
        sample, lengths = self._base, _lengths(self._base)
        cost = look_account(self.network.config, self.budget, lengths, **self._text)
        crops = (0,) if self.has_tiles else tuple(range(sample.num_crops))
        return self._answer(self._first[0], crops, sample.num_crops, cost)

    @functools.cached_property
    def second(self) -> LookAnswer:
        """The answer to all crops, for the price of what the first look lacks.

        Raises ValueError where the first look saw everything.
        """
        whole, change = self._whole, self._difference
        seen = self._first[1]
        if self._looking.rule is CropRule.ALONE:
            # The text, and a token beside the base view, stood elsewhere.
            seen = seen.replace(keys=(None,) * len(seen.keys))
        parts = self.network.vlm, self.network.params, seen, change, self.budget
        found = second_look(*parts, spare=spare_for(self.max_new_tokens))
        missing = whole.num_crops - 1
        return self._answer(
            found, tuple(range(whole.num_crops)), missing, self._second_cost(missing)
        )

    @property
    def _looking(self) -> Looking:
        return self.network.processor.looking

    @property
    def _text(self) -> dict[str, int]:
        return {"text_tokens": self._whole.num_text_tokens}

    @functools.cached_property
    def _whole(self) -> Sample:
        processor = self.network.looking_at("all").processor
        return processor.sample(self.request, room=self.max_new_tokens)

    @functools.cached_property
    def _base(self) -> Sample:
        return self._looking.sample(self._whole)

    @functools.cached_property
    def _first(self) -> tuple[Prefilled, SeenImage]:
        network, buckets = self.network, self.network.processor.buckets
        batch = buckets.batch([self._base], self._first_bucket)
        check_prompts(batch)
        most = network.config.decoder.max_positions
        check_context(batch, self.max_new_tokens, most)
        spare = spare_for(self.max_new_tokens)
        return first_look(network.vlm, network.params, batch, self.budget, spare=spare)

    @property
    def _first_bucket(self) -> Bucket:
        """The smallest for the first look, with no room for a tile."""
        buckets, most = self.network.processor.buckets, self._base.num_crops
        # Says what is too long for any.
        buckets.choose(self._base)
        return next(
            bucket
            for bucket in buckets.all
            if bucket.holds(self._base) and (bucket.crops == most or not self.has_tiles)
        )

    @functools.cached_property
    def _difference(self) -> LookDifference:
        if not self.has_tiles:
            raise ValueError("The first look saw everything: there are no tiles.")
        whole, buckets = self._whole, self.network.processor.buckets
        bucket = buckets.choose(whole)
        shapes = LookShapes(first=self._first_bucket, second=bucket)
        taps = self.network.config.adapter.conv_kernel
        crops = [tuple(range(whole.num_crops))]
        return look_difference([whole], [(0,)], crops, shapes, buckets, taps=taps)

    def _second_cost(self, missing: int) -> Account:
        config, seen = self.network.config, _lengths(self._whole)
        if self._looking.rule is CropRule.ALONE:
            lengths = dataclasses.replace(seen, crops=missing)
            return look_account(config, self.budget, lengths, **self._text)
        change = self._difference
        made = int((change.read < change.prompts.image_mask.shape[1]).sum())
        budgets = self.budget, self.budget
        how = {"missing": missing, "new_keys": made, **self._text}
        return second_look_account(config, *budgets, seen, **how)

    def _answer(
        self, prompt: Prefilled, crops: tuple[int, ...], encoded: int, cost: Account
    ) -> LookAnswer:
        processor = self.network.processor
        written = decode_scored(
            self.network.vlm,
            self.network.params,
            prompt,
            max_new_tokens=self.max_new_tokens,
            eos_id=processor.eos_ids,
            pad_id=processor.pad_id,
            sampling=self.sampling,
            row_keys=self.key,
        )
        tokens, log_probs = (np.asarray(each)[0] for each in written)
        check_written(tokens, self.network.params)
        length = written_length(tokens, processor, self.stop)
        (own,) = cut_at_end(tokens[None, :length], processor.eos_ids)
        prefill = cost.tower.total + cost.projector + cost.llm_prefill
        return LookAnswer(
            text=processor.text_before(own, self.stop),
            tokens=tuple(own),
            confidence=confidence(log_probs[:length]),
            crops=crops,
            encoded=encoded,
            flops=prefill + cost.decode_tokens(length - 1),
        )


def answered_looks(
    prompt: LookedPrompt, cascade: LookCascade
) -> tuple[LookAnswer, ...]:
    """Returns what one or two looks came to; the last one is the answer.

    Raises:
      ValueError: for what cannot be read or is too long.
    """
    if prompt.has_tiles and cascade.looks_again(prompt.first.confidence):
        return prompt.first, prompt.second
    return (prompt.first,)


def look_texts(
    network: Network,
    requests: Sequence[Request],
    cascade: str | LookCascade,
    budgets: Sequence[Budget | Cascade | None],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    key: Array | None,
    stop: Sequence[str],
) -> list[str]:
    """Returns the answers to prompts, one by one, each after one look or two.

    Arguments are those of `answer_samples`; a request's options go before them.

    Raises:
      ValueError: for no cascade over looks, a request that names its crops or whose
        budget is to be chosen, and as `answered_looks`.
    """
    if isinstance(cascade, str):
        cascade = LookCascade.of_name(cascade)
    options = [request.options for request in requests]
    named = [i for i, each in enumerate(options) if each.crops is not None]
    if named:
        raise ValueError(
            f"Requests {named} name their crops, and crops={cascade.name!r} chooses "
            "them: leave one of both out."
        )
    if not all(isinstance(each, Budget) for each in budgets):
        raise ValueError(
            f"crops={cascade.name!r} looks twice in one budget: name it, and leave "
            "'auto' and cascades of budgets out."
        )
    settings = [each.sampling or sampling for each in options]
    keys = keys_of_samples(key, options, settings)
    network = network.looking_at(BASE)
    found = []
    for i, (request, said) in enumerate(zip(requests, options, strict=True)):
        prompt = LookedPrompt(
            network=network,
            request=request,
            budget=budgets[i],
            max_new_tokens=said.max_new_tokens or max_new_tokens,
            sampling=settings[i],
            key=None if keys is None else keys[i : i + 1],
            stop=said.stop or stop,
        )
        found.append(answered_looks(prompt, cascade)[-1].text)
    return found


def _lengths(sample: Sample) -> LookLengths:
    return LookLengths(crops=sample.num_crops, image_tokens=sample.num_image_tokens)
