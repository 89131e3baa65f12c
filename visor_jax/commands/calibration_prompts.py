"""The prompts that budgets are measured on: a file of requests, or pages."""

import hashlib
import itertools
from pathlib import Path
from typing import Any

from visor_jax.data.pages.questions import TASK_NAMES
from visor_jax.data.prompts.request import Request
from visor_jax.evals.pages.benchmark import PageBenchmark, check_reads_pages
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
    digest = hashlib.sha256(digests.encode()).hexdigest()
    return [line.request for line in lines], {"data": data, "requests": digest}
