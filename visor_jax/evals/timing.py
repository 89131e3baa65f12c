"""Measures how long a prefill takes at each budget.

Timed is what answering begins with, by the library's own prefill: vision tower,
projector, decoder, the cache that decoding goes on from, and the logits at each
prompt's last token; from arrays on the device to arrays on the device, compilation and
data loading apart. Programs take turns, and the median is reported (`stopwatch`).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from visor_jax.batch import Batch
from visor_jax.budget import Budget, BudgetSet
from visor_jax.data.buckets import Bucket
from visor_jax.data.prompts.request import Request
from visor_jax.evals.benchmark import Benchmark, clusters_of
from visor_jax.evals.harness import check_plan
from visor_jax.inference.generation.prefill import Prefilled, prefill
from visor_jax.inference.loading.network import Network
from visor_jax.runtime.stopwatch import median_seconds

Program = Callable[[], Prefilled]

BATCH = 32
RUNS = 15
WARM_UP = 2


def describe(
    cluster_name: str = "page", batch_size: int = BATCH, runs: int = RUNS
) -> str:
    """Returns one sentence that says what `ms_per_sample` is."""
    return (
        f"Time per {cluster_name} of a prefill of {batch_size} {cluster_name}s with "
        "one question each (vision tower, projector, decoder, logits at the last "
        f"word), median of {runs} runs after warm-up, budgets taking turns; "
        "compilation and data loading not included."
    )


def prompts(network: Network, benchmark: Benchmark, batch_size: int = BATCH) -> Batch:
    """Returns one question about each of the first images, padded to the longest.

    The questions about an image take turns from image to image. With fewer images than
    rows they are used again.
    """
    clusters = clusters_of(benchmark, batch_size)
    requests = []
    for row in range(batch_size):
        cluster = clusters[row % len(clusters)]
        requests.append(cluster[row % len(cluster)].request)
    return padded(network, requests)


def padded(network: Network, requests: Sequence[Request]) -> Batch:
    """Returns the requests as rows of one batch, padded to the longest."""
    samples = [network.processor.sample(request, room=1) for request in requests]
    shape = Bucket(
        crops=max(1, *(sample.num_crops for sample in samples)),
        image_tokens=max(1, *(sample.num_image_tokens for sample in samples)),
        text_tokens=max(1, *(sample.num_text_tokens for sample in samples)),
        corners=max(1, *(sample.patch_index.corners for sample in samples)),
    )
    return network.processor.buckets.batch(samples, shape)


def prefill_programs(
    network: Network, budgets: BudgetSet, batch: Batch
) -> dict[Budget, Program]:
    """Returns {budget: a call that runs the prefill of these prompts once}.

    Raises:
      ValueError: if the budgets are of another plan than the network.
    """
    check_plan(network.config, budgets)
    model, batch = network.vlm, jax.device_put(batch)
    return {
        budget: functools.partial(prefill, model, network.params, batch, budget)
        for budget in budgets
    }


def milliseconds_per_row(
    programs: dict[Any, Program], *, batch_size: int = BATCH, runs: int = RUNS
) -> dict[Any, float]:
    """Returns the median time of each program, in milliseconds per row of its batch."""
    seconds = median_seconds(programs, runs=runs, warm_up=WARM_UP)
    return {name: 1e3 * each / batch_size for name, each in seconds.items()}
