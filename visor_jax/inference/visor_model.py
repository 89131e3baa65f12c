"""A network with everything that answering takes: what `visor_jax.load` returns."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from visor_jax.batch import Batch
from visor_jax.budget import Budget, BudgetSet
from visor_jax.data.chat_template import Message
from visor_jax.data.samples import Images, Videos
from visor_jax.flops.account import account
from visor_jax.flops.table import Row
from visor_jax.inference import generation
from visor_jax.inference.choose_budgets import AUTO, BudgetChoice
from visor_jax.inference.choosers import Chooser
from visor_jax.inference.decode import answers
from visor_jax.inference.engine import Engine
from visor_jax.inference.reader import Reader, Request
from visor_jax.inference.sampling import GREEDY, Sampling
from visor_jax.models.config import VLMConfig
from visor_jax.models.vlm import VLM
from visor_jax.policy.network import Policy

Params = Any
Prompt = str | Sequence[Message]


class VisorModel:
    """A network with its parameters, budgets and reader of text and pictures.

    config: its sizes and layer plan. budgets: what it was trained for, in class order.
    metadata: whatever else its run recorded (preset, seed, step, ...).

    Where a method takes `prompt`, that is a text or a list of chat messages; `images`
    and `videos` (lists of frames) may be in the messages instead. `budget` is a name
    ("none", "all", "sa1:3") or a `Budget`; None for the largest; "auto" for what the
    policy chooses for each prompt, where there is one (then `cost` says how much its
    costs count: 0 as it was trained, more for cheaper choices).
    """

    def __init__(
        self,
        config: VLMConfig,
        params: Params,
        budgets: BudgetSet,
        reader: Reader,
        metadata: dict[str, Any],
        policy: Policy | None = None,
    ) -> None:
        self.config = config
        self.params = params
        self.budgets = budgets
        self.reader = reader
        self.metadata = metadata
        self.policy = policy
        self.network = VLM(config)
        self._choice = BudgetChoice(
            model=self.network,
            params=params,
            buckets=reader.buckets,
            budgets=budgets,
            policy=policy,
        )

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer."""
        return self.reader.tokenizer

    def generate(
        self,
        images: Images = None,
        prompt: Prompt = "",
        budget: str | Budget | None = None,
        *,
        videos: Videos = None,
        max_new_tokens: int | None = None,
        sampling: Sampling = GREEDY,
        key: Array | None = None,
        cost: float = 0.0,
    ) -> str:
        """Returns the answer to a prompt.

        Args:
          images: files, their bytes, PIL images or uint8 arrays; None for none.
          max_new_tokens: at most so many; None for 256 (8 for pages).
          key: for random sampling.

        Raises:
          ValueError: for an image that cannot be read, places in the prompt that do not
            match the images, a prompt that is too long or has words the tokenizer does
            not know, or a budget that the network was not trained for.
        """
        request = Request(prompt, images, videos)
        (answer,) = self.generate_all(
            [request],
            budget,
            batch_size=1,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            key=key,
            cost=cost,
        )
        return answer

    def chat(
        self,
        messages: Sequence[Message],
        budget: str | Budget | None = None,
        *,
        images: Images = None,
        **options: Any,
    ) -> str:
        """Returns the assistant's next turn.

        Args:
          messages: of Hugging Face's form, images in their parts or beside them.
          **options: of `generate`, whose errors these are.
        """
        return self.generate(images, messages, budget, **options)

    def generate_all(
        self,
        requests: Sequence[Request],
        budget: str | Budget | None = None,
        *,
        batch_size: int = 8,
        max_new_tokens: int | None = None,
        sampling: Sampling = GREEDY,
        key: Array | None = None,
        cost: float = 0.0,
    ) -> list[str]:
        """Returns the answers to many prompts, in their order.

        Prompts of about the same size are answered together; an answer depends neither
        on its neighbours nor on their number. Arguments and errors as in `generate`;
        all prompts are read before the first is answered. For more prompts than fit
        into memory, or to read each only once with "auto", see `engine`.
        """
        count = self._count(max_new_tokens)
        samples = [self.reader.sample(request, room=count) for request in requests]
        budgets = self._choice.of_samples(samples, budget, cost)
        keys = None if key is None else generation.keys_of_rows(key, len(samples))
        found = [""] * len(samples)
        for chosen in dict.fromkeys(budgets):
            mine = np.array([i for i, each in enumerate(budgets) if each == chosen])
            for group in self.reader.buckets.batches(
                [samples[i] for i in mine], batch_size, whole=False
            ):
                filler = group.batch.size - len(group.rows)
                rows = mine[[*group.rows, *group.rows[-1:] * filler]]
                tokens = generation.generate(
                    self.network,
                    self.params,
                    group.batch,
                    chosen,
                    max_new_tokens=count,
                    **self._ends(),
                    sampling=sampling,
                    key=None if keys is None else keys[rows],
                )
                texts = map(self.reader.text, answers(tokens, self.reader.eos_ids))
                for row, text in zip(rows[: len(group.rows)], texts, strict=False):
                    found[row] = text
        return found

    def stream(
        self,
        images: Images = None,
        prompt: Prompt = "",
        budget: str | Budget | None = None,
        *,
        videos: Videos = None,
        max_new_tokens: int | None = None,
        sampling: Sampling = GREEDY,
        key: Array | None = None,
        cost: float = 0.0,
    ) -> Iterator[str]:
        """Yields what `generate` returns in pieces, as they are written.

        Arguments and errors are those of `generate`; errors are raised at the call.
        """
        count = self._count(max_new_tokens)
        sample = self.reader.sample(Request(prompt, images, videos), room=count)
        (chosen,) = self._choice.of_samples([sample], budget, cost)
        buckets = self.reader.buckets
        tokens = generation.stream(
            self.network,
            self.params,
            buckets.batch([sample], buckets.choose(sample)),
            chosen,
            max_new_tokens=count,
            **self._ends(),
            sampling=sampling,
            key=key,
        )
        return self.reader.pieces(int(token[0]) for token in tokens)

    def logits(
        self,
        images: Images = None,
        prompt: Prompt = "",
        budget: str | Budget | None = None,
        *,
        videos: Videos = None,
    ) -> Float[np.ndarray, "T W"]:
        """Returns float32 logits of what follows each of the prompt's T text tokens.

        Image tokens have none. Arguments and errors are those of `generate`.
        """
        batch = self.batch(images, prompt, videos=videos, max_new_tokens=0)
        return self.logits_of(batch, budget)[0][batch.text_mask[0]]

    def logits_of(
        self, batch: Batch, budget: str | Budget | None = None
    ) -> Float[np.ndarray, "B T W"]:
        """Returns the logits of a batch, those of padding among them."""
        gates = self.budget(budget).gates(self.config.plan)
        return np.asarray(_logits(self.params, batch, model=self.network, gates=gates))

    def choose(
        self,
        requests: Sequence[Request],
        budget: str | Budget | None = AUTO,
        cost: float = 0.0,
    ) -> list[Budget]:
        """Returns the budget of each prompt, as `generate` would answer it.

        Raises:
          ValueError: if there is no policy, or a prompt cannot be read.
        """
        samples = [self.reader.sample(request, room=1) for request in requests]
        return self._choice.of_samples(samples, budget, cost)

    def engine(
        self,
        budget: Chooser | str | Budget | None = None,
        *,
        cost: float = 0.0,
        **options: Any,
    ) -> Engine:
        """Returns an engine for many requests, each in a budget of its own.

        It keeps encoded images and compiled programs between calls.

        Args:
          budget: one for all, "auto", or another chooser.
          **options: of `visor_jax.inference.engine.Engine`.

        Raises:
          ValueError: for a budget that the network was not trained for, "auto" without
            a policy, or a cost without "auto".
        """
        if budget is None or isinstance(budget, str | Budget):
            budget = self._choice.chooser(budget, cost)
        return Engine(self.network, self.params, self.reader, budget, **options)

    def batch(
        self,
        images: Images = None,
        prompt: Prompt = "",
        *,
        videos: Videos = None,
        max_new_tokens: int | None = None,
    ) -> Batch:
        """Returns the one-row batch of a prompt. Raises ValueError as `generate`."""
        count = 0 if max_new_tokens == 0 else self._count(max_new_tokens)
        request = Request(prompt, images, videos)
        sample = self.reader.sample(request, room=count)
        return self.reader.buckets.batch([sample], self.reader.buckets.choose(sample))

    def cost(
        self,
        budget: str | Budget | None = None,
        *,
        text_tokens: int = 8,
        image_tokens: int | None = None,
        crops: int = 1,
        logit_positions: int | None = 1,
    ) -> Row:
        """Returns the FLOPs of a budget and what it saves against the dense network.

        What is counted, and against what: `visor_jax.flops.table.HEADER`.

        Args:
          budget: any of the network's plan, also one it was not trained for.
          image_tokens: None for one crop's.
          logit_positions: 1, all that a generation needs; None for all text tokens.

        Raises:
          ValueError: for an unknown budget or an impossible length.
        """
        chosen = self.budgets.of_plan(budget)
        patches = self.config.vision.num_patches
        measured = account(
            self.config,
            chosen,
            text_tokens=text_tokens,
            image_tokens=patches if image_tokens is None else image_tokens,
            crops=crops,
            logit_positions=logit_positions,
        )
        return Row.of(chosen.name, measured)

    def budget(self, budget: str | Budget | None = None) -> Budget:
        """Returns the budget of that name. See `BudgetSet.find`."""
        return self.budgets.find(budget)

    def latency(
        self,
        batch: Batch,
        budget: str | Budget | None = None,
        *,
        max_new_tokens: int | None = None,
    ) -> generation.Latency:
        """Returns the measured milliseconds of prefill and of each further token."""
        return generation.measure_latency(
            self.network,
            self.params,
            batch,
            self.budget(budget),
            max_new_tokens=self._count(max_new_tokens),
        )

    def _count(self, max_new_tokens: int | None) -> int:
        count = self.reader.new_tokens if max_new_tokens is None else max_new_tokens
        if count < 1:
            raise ValueError(f"{max_new_tokens=} must be at least 1.")
        return count

    def _ends(self) -> dict[str, Any]:
        return {"eos_id": self.reader.eos_ids, "pad_id": self.reader.pad_id}


@functools.partial(jax.jit, static_argnames=("model", "gates"))
def _logits(
    params: Params, batch: Batch, *, model: VLM, gates: tuple[bool, ...]
) -> Float[Array, "B T W"]:
    return model.apply({"params": params}, batch, gates).logits
