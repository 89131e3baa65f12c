"""A network with everything that answering takes: what `visor_jax.load` returns."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict, Unpack

import numpy as np
from jaxtyping import Array

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.data.prompts.chat_template import Message
from visor_jax.data.prompts.request import Images, Prompt, Request, Videos
from visor_jax.data.prompts.stop_tokens import cut_at_end
from visor_jax.inference.engine.engine import Engine
from visor_jax.inference.generation import generate
from visor_jax.inference.loading.network import LoadedNetwork
from visor_jax.inference.routing.choose_budgets import AUTO, BudgetChoice
from visor_jax.inference.routing.router import Router
from visor_jax.inference.sampling import GREEDY, Sampling


class Options(TypedDict, total=False):
    """How to answer.

    max_new_tokens: at most so many; None for 256 (8 for pages). key: for random
    sampling. cost: with "auto", above 0 for cheaper choices.
    """

    max_new_tokens: int | None
    sampling: Sampling
    key: Array | None
    cost: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ReadPrompt:
    """A prompt as the network takes it: one row, its budget, room for its answer."""

    batch: Batch
    budget: Budget
    max_new_tokens: int


class VisorModel(LoadedNetwork):
    """A network that answers.

    Where a method takes `prompt`, that is a text or a list of chat messages; `images`
    and `videos` (lists of frames) may be in the messages instead. `budget` is a name
    ("none", "all", "sa1:3") or a `Budget`; None for the largest; "auto" for what the
    policy chooses for each prompt, where there is one (then `cost` says how much its
    costs count: 0 as it was trained, more for cheaper choices).
    """

    @functools.cached_property
    def _choice(self) -> BudgetChoice:
        return BudgetChoice(
            model=self.network,
            params=self.params,
            buckets=self.reader.buckets,
            budgets=self.budgets,
            policy=self.policy,
        )

    def generate(
        self,
        images: Images = None,
        prompt: Prompt = "",
        budget: str | Budget | None = None,
        *,
        videos: Videos = None,
        **options: Unpack[Options],
    ) -> str:
        """Returns the answer to a prompt.

        Args:
          images: files, their bytes, PIL images or uint8 arrays; None for none.
          **options: see `Options`.

        Raises:
          ValueError: for an image that cannot be read, places in the prompt that do not
            match the images, a prompt that is too long or has words the tokenizer does
            not know, or a budget that the network was not trained for.
        """
        request = Request(prompt, images, videos)
        (answer,) = self.generate_all([request], budget, batch_size=1, **options)
        return answer

    def chat(
        self,
        messages: Sequence[Message],
        budget: str | Budget | None = None,
        *,
        images: Images = None,
        videos: Videos = None,
        **options: Unpack[Options],
    ) -> str:
        """Returns the assistant's next turn.

        Args:
          messages: of Hugging Face's form, images in their parts or beside them.
          **options: as in `generate`, whose errors these are.
        """
        return self.generate(images, messages, budget, videos=videos, **options)

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
        keys = None if key is None else generate.keys_of_rows(key, len(samples))
        found = [""] * len(samples)
        for chosen in dict.fromkeys(budgets):
            mine = np.array([i for i, each in enumerate(budgets) if each == chosen])
            for group in self.reader.buckets.batches(
                [samples[i] for i in mine], batch_size, whole=False
            ):
                filler = group.batch.size - len(group.rows)
                rows = mine[[*group.rows, *group.rows[-1:] * filler]]
                tokens = generate.generate(
                    self.network,
                    self.params,
                    group.batch,
                    chosen,
                    max_new_tokens=count,
                    **self._ends(),
                    sampling=sampling,
                    key=None if keys is None else keys[rows],
                )
                cut = cut_at_end(np.asarray(tokens), self.reader.eos_ids)
                texts = map(self.reader.text, cut)
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
        **options: Unpack[Options],
    ) -> Iterator[str]:
        """Yields what `generate` returns in pieces, as they are written.

        Arguments and errors are those of `generate`; errors are raised at the call.
        """
        return self._stream(Request(prompt, images, videos), budget, **options)

    def _stream(
        self,
        request: Request,
        budget: str | Budget | None,
        *,
        max_new_tokens: int | None = None,
        sampling: Sampling = GREEDY,
        key: Array | None = None,
        cost: float = 0.0,
    ) -> Iterator[str]:
        prompt = self.read(request, budget, max_new_tokens=max_new_tokens, cost=cost)
        return self.pieces(prompt, sampling=sampling, key=key)

    def read(
        self,
        request: Request,
        budget: str | Budget | None = None,
        *,
        max_new_tokens: int | None = None,
        cost: float = 0.0,
    ) -> ReadPrompt:
        """Returns a prompt that `pieces` answers, with the budget that it gets.

        Arguments and errors are those of `generate`.
        """
        count = self._count(max_new_tokens)
        sample = self.reader.sample(request, room=count)
        (chosen,) = self._choice.of_samples([sample], budget, cost)
        return ReadPrompt(
            batch=self.reader.batch(sample), budget=chosen, max_new_tokens=count
        )

    def pieces(
        self,
        prompt: ReadPrompt,
        *,
        sampling: Sampling = GREEDY,
        key: Array | None = None,
    ) -> Iterator[str]:
        """Yields the answer to a prompt in pieces, as they are written."""
        tokens = generate.stream(
            self.network,
            self.params,
            prompt.batch,
            prompt.budget,
            max_new_tokens=prompt.max_new_tokens,
            **self._ends(),
            sampling=sampling,
            key=key,
        )
        return self.reader.pieces(int(token[0]) for token in tokens)

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
        budget: Router | str | Budget | None = None,
        *,
        cost: float = 0.0,
        **options: Any,
    ) -> Engine:
        """Returns an engine for many requests, each in a budget of its own.

        It keeps images, their keys and values, and compiled programs between calls.

        Args:
          budget: one for all, "auto", or another router.
          **options: of `visor_jax.inference.engine.engine.Engine`.

        Raises:
          ValueError: for a budget that the network was not trained for, "auto" without
            a policy, or a cost without "auto".
        """
        if budget is None or isinstance(budget, str | Budget):
            budget = self._choice.router(budget, cost)
        return Engine(self.network, self.params, self.reader, budget, **options)

    def _ends(self) -> dict[str, Any]:
        return {"eos_id": self.reader.eos_ids, "pad_id": self.reader.pad_id}
