"""A network and the questions that an analysis asks it, a batch at a time.

Pictures are read and encoded as they come and kept no longer than their batch, so that
the number of questions costs no memory.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.data.prompts.sample import Sample
from visor_jax.evals.benchmark import Benchmark, Example
from visor_jax.inference.loading.network import Network
from visor_jax.layer_plan import READ, LayerKind, StaticGate
from visor_jax.models.decoder.token_reducer import KEEP_ALL
from visor_jax.models.vision.image_tokens import ImageTokens
from visor_jax.models.vlm import VLM, image_tags, text_tags
from visor_jax.ops.masks import TokenTags, last_valid
from visor_jax.sharding.programs import mesh_jit

# Examples whose pictures are in memory at once, in batches.
_BATCHES = 4


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prompts:
    """Prompts of one shape, their images encoded, with room behind the text.

    examples: of the first rows; what follows repeats the last one. tokens, text: (B,
    T); of them the last `room` are free. image: (B, V). last: (B,) index of each
    prompt's last token.
    """

    examples: tuple[Example, ...]
    tokens: Int[np.ndarray, "B T"]
    text: TokenTags
    image_tokens: ImageTokens
    image: TokenTags
    last: Int[np.ndarray, "B"]
    room: int


@dataclasses.dataclass(kw_only=True, eq=False)
class Study:
    """What is looked at: one network, at one budget, on one benchmark's questions.

    budgets: of the heat map, the network's own unless told. batch_size: prompts at
    once. errors: {id: what is wrong} of questions that could not be read, so far.
    """

    network: Network
    benchmark: Benchmark
    budget: Budget
    budgets: tuple[Budget, ...] = ()
    batch_size: int = 8
    errors: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for another plan's budget, or a network that drops."""
        if self.network.reducer != KEEP_ALL:
            raise ValueError(
                f"{self.network.reducer} drops image tokens, so that layers see "
                "different ones: load the network without it."
            )
        for budget in (self.budget, *self.budgets):
            budget.check(self.network.config.plan)

    @property
    def gates(self) -> tuple[StaticGate, ...]:
        """The gates of the budget."""
        return self.budget.gates(self.network.config.plan)

    @functools.cached_property
    def ways(self) -> tuple[str, ...]:
        """What every layer is at the budget: a kind's name, "off" or "read"."""
        return layer_ways(self.network, self.budget)

    @property
    def new_tokens(self) -> int:
        """Most tokens of an answer."""
        asked = self.benchmark.new_tokens
        return self.network.processor.new_tokens if asked is None else asked

    def batches(self, *, room: int = 0) -> Iterator[Prompts]:
        """Yields the questions, `room` free places behind each.

        Those that cannot be read are left out and noted in `errors`.

        Raises:
          ValueError: if none can be read.
        """
        is_empty = True
        examples = iter(self.benchmark.examples())
        while chunk := list(itertools.islice(examples, _BATCHES * self.batch_size)):
            read, samples = self._read(chunk, room)
            buckets = self.network.processor.buckets
            for group in buckets.batches(samples, self.batch_size):
                is_empty = False
                asked = tuple(read[row] for row in group.rows)
                yield prompts_of(self.network, asked, group.batch, room)
        if is_empty:
            raise ValueError(
                f"{self.benchmark.name}: no question could be read; the first: "
                f"{next(iter(self.errors.values()), 'there is none')}"
            )

    def _read(
        self, examples: Sequence[Example], room: int
    ) -> tuple[list[Example], list[Sample]]:
        read, samples = [], []
        for example in examples:
            try:
                sample = self.network.processor.sample(example.request, room=room)
                self.network.processor.buckets.choose(sample)
            except ValueError as error:
                self.errors[example.id] = str(error)
                continue
            read.append(example)
            samples.append(sample)
        return read, samples


def layer_ways(network: Network, budget: Budget) -> tuple[str, ...]:
    """Returns what every layer is at a budget: a kind's name, "off" or "read"."""
    plan = network.config.plan
    gate_of = plan.gate_of_layer(budget.gates(plan))

    def way(layer: int, kind: LayerKind) -> str:
        gate = gate_of.get(layer, True)
        if gate is READ:
            return READ.value
        return kind.value if gate else "off"

    return tuple(way(*each) for each in enumerate(plan.kinds))


def seeing(ways: Sequence[str]) -> list[int]:
    """Returns the layers in which text sees the image."""
    return [i for i, way in enumerate(ways) if way in ("cross", "read", "self")]


def refining(ways: Sequence[str]) -> list[int]:
    """Returns the layers that change the image where a later one sees it."""
    last = max(seeing(ways), default=-1)
    return [i for i, way in enumerate(ways) if way == "self" and i < last]


def prompts_of(
    network: Network, examples: tuple[Example, ...], batch: Batch, room: int = 0
) -> Prompts:
    """Returns the prompts of a batch of the host, whose first rows ask the examples."""
    wider = [(0, 0), (0, room)]
    tags = jax.tree.map(lambda x: np.pad(np.asarray(x), wider), text_tags(batch))
    encoded = _encoded(network.params, jax.device_put(batch), model=network.vlm)
    return Prompts(
        examples=examples,
        tokens=np.pad(batch.tokens, wider),
        text=tags,
        image_tokens=encoded,
        image=image_tags(batch),
        last=np.asarray(last_valid(tags)),
        room=room,
    )


@mesh_jit(static_argnames=("model",))
def _encoded(params: Any, batch: Batch, *, model: VLM) -> ImageTokens:
    return model.apply(
        {"params": params},
        batch.pixels,
        batch.image_token_index,
        batch.image_token_weights,
        batch.image_mask,
        batch.image_places,
        method=VLM.encode_image,
    )
