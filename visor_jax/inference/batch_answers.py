"""What a network makes of batches: logits of one, answers to however many samples."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.data.prompts.processor import Processor
from visor_jax.data.prompts.sample import Sample
from visor_jax.data.prompts.stop_tokens import cut_at_end
from visor_jax.inference import checked_arguments as checked
from visor_jax.inference.generation import generate
from visor_jax.inference.generation.finite import check_written
from visor_jax.inference.sampling import Sampling
from visor_jax.models.vlm import VLM

Params = Any


@functools.partial(jax.jit, static_argnames=("model", "gates"))
def batch_logits(
    params: Params, batch: Batch, *, model: VLM, gates: tuple[bool, ...]
) -> Float[Array, "B T W"]:
    """Returns float32 logits of all text tokens, those of padding among them."""
    return model.apply({"params": params}, batch, gates).logits


def samples_of(processor: Processor, requests: Any, *, room: int) -> list[Sample]:
    """Returns the requests as the network takes them.

    Args:
      room: tokens of an answer that the context must have room for.

    Raises:
      ValueError: for what is no list of requests, or as `Processor.sample`.
    """
    found = checked.requests_of(requests)
    return [processor.sample(request, room=room) for request in found]


def answer_samples(
    model: VLM,
    params: Params,
    processor: Processor,
    samples: Sequence[Sample],
    budgets: Sequence[Budget],
    *,
    batch_size: int,
    max_new_tokens: int,
    sampling: Sampling,
    key: Array | None,
) -> list[str]:
    """Returns the answers, in the order of the samples.

    Samples of one budget and about one size are answered together.

    Args:
      budgets: of each sample.
      key: of all draws; a sample's own does not depend on which are beside it.
    """
    keys = None if key is None else generate.keys_of_rows(key, len(samples))
    ends = {"eos_id": processor.eos_ids, "pad_id": processor.pad_id}
    found = [""] * len(samples)
    for chosen in dict.fromkeys(budgets):
        mine = np.array([i for i, each in enumerate(budgets) if each == chosen])
        for group in processor.buckets.batches(
            [samples[i] for i in mine], batch_size, whole=False
        ):
            filler = group.batch.size - len(group.rows)
            rows = mine[[*group.rows, *group.rows[-1:] * filler]]
            tokens = generate.generate(
                model,
                params,
                group.batch,
                chosen,
                max_new_tokens=max_new_tokens,
                **ends,
                sampling=sampling,
                key=None if keys is None else keys[rows],
            )
            tokens = np.asarray(tokens)
            check_written(tokens, params)
            cut = cut_at_end(tokens, processor.eos_ids)
            texts = map(processor.text, cut)
            for row, text in zip(rows[: len(group.rows)], texts, strict=False):
                found[row] = text
    return found
