"""What a network can be tried on: questions with references, and how an answer scores.

A benchmark is one class of this form; harness, statistics and reports know no more of
it. It names its questions' tasks, which may stand in groups, and what they have in
common that others have not: questions about one image (a cluster) go together, since
an image that is hard to read is hard for all of them.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from visor_jax.batch import Batch
from visor_jax.data.prompts.request import Request


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One question of a benchmark.

    id: no other of the benchmark has it. task: the kind of question. cluster: what it
    is about (the image, the page), which other questions may be about as well.
    references: right answers, at least one.
    """

    id: str
    task: str
    cluster: str
    request: Request
    references: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptLengths:
    """The lengths that a prompt's FLOPs are counted for; 0 text tokens: never read.

    image_slots: image tokens that it was padded to, None for no padding.
    """

    text_tokens: int
    image_tokens: int
    crops: int
    image_slots: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PackedBatch:
    """Rows of several questions each, with their right answers: one pass asks them all.

    batch: of the host; every question is a segment whose answer the loss mask covers,
    its end included. examples: of those segments, row by row, segments ascending.
    lengths: of one such question as a prompt of its own, which is what it costs.
    """

    batch: Batch
    examples: tuple[Example, ...]
    lengths: PromptLengths


@runtime_checkable
class Benchmark(Protocol):
    """Questions with references.

    name, split: of the data. cluster_name: what a cluster is ("page", "image").
    groups: {group: its tasks} of which reports give means; {} for none.
    new_tokens: most tokens of an answer, None for what the network's processor says.
    """

    @property
    def name(self) -> str: ...

    @property
    def split(self) -> str: ...

    @property
    def cluster_name(self) -> str: ...

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]: ...

    @property
    def new_tokens(self) -> int | None: ...

    def __len__(self) -> int:
        """Returns the number of examples."""
        ...

    def identity(self) -> dict[str, Any]:
        """Returns JSON values that say what was asked, to the last question."""
        ...

    def examples(self) -> Iterator[Example]:
        """Yields all questions; those of one cluster stand together."""
        ...

    def score(self, example: Example, answer: str) -> dict[str, float]:
        """Returns {metric: score}, the one that reports show first, in 0..1.

        NaN for an example that this metric cannot score.
        """
        ...

    def packed(self) -> Iterator[PackedBatch] | None:
        """Yields the examples, in their order, as packed rows; None: they are asked.

        Only for metrics that give nothing for an answer with a wrong token: what would
        follow the first of them is not known (`evals.packed_answers`).
        """
        ...


def clusters_of(benchmark: Benchmark, count: int) -> list[list[Example]]:
    """Returns the examples of the first `count` clusters, of all if there are fewer."""
    found: dict[str, list[Example]] = {}
    for example in benchmark.examples():
        if example.cluster not in found and len(found) == count:
            break
        found.setdefault(example.cluster, []).append(example)
    return list(found.values())
