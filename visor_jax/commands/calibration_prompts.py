"""The prompts that budgets are measured on: a file of requests, or pages."""

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visor_jax.data.pages.questions import TASK_NAMES
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.sample import Sample
from visor_jax.evals.pages.benchmark import PageBenchmark, check_reads_pages
from visor_jax.inference.batch_answers import samples_for
from visor_jax.inference.files.picture_files import digest_of
from visor_jax.inference.files.request_file import read_requests
from visor_jax.inference.loading.network import Network


def calibration_prompts(
    network: Network, data: str, count: int, split: str
) -> tuple[list[Request], dict[str, Any]]:
    """Returns what to measure on, and JSON values that say which requests these are.

    Args:
      data: file of requests (JSON lines), or "pages".
      count: at most so many.
      split: of pages.

    Raises:
      ValueError: for lines that cannot be read, or pages asked of another network.
      OSError: if the file cannot be read.
    """
    if data == "pages":
        check_reads_pages(network.config, network.metadata)
        # A page is asked all tasks, one after another.
        benchmark = PageBenchmark.make(-(-count // len(TASK_NAMES)), split=split)
        examples = itertools.islice(benchmark.examples(), count)
        identity = {"data": data, **benchmark.identity()}
        return [example.request for example in examples], identity
    lines = read_requests(Path(data))[:count]
    wrong = [line.error for line in lines if line.error is not None]
    if wrong:
        raise ValueError(f"{data}: {'; '.join(wrong[:3])}")
    digests = " ".join(line.digest for line in lines)
    facts = {
        "data": data,
        "requests": hashlib.sha256(digests.encode()).hexdigest(),
        "pictures": digest_of([file for line in lines for file in line.pictures]),
    }
    return [line.request for line in lines], facts


def calibration_samples(
    network: Network, data: str, requests: Sequence[Request]
) -> list[Sample]:
    """Returns the requests of `calibration_prompts` as the network takes them.

    Raises:
      ValueError: for requests that it cannot take, with their lines.
    """
    samples, wrong = [], []
    for request in requests:
        try:
            samples += samples_for(network, [request], room=1)
        except ValueError as error:
            wrong.append(f"line {request.draw}: {error}")
    if wrong:
        raise ValueError(f"{data}: {'; '.join(wrong[:3])}")
    return samples
