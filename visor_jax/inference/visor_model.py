"""A network with everything that answering takes: what `visor_jax.load` returns."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Unpack

import numpy as np
from jaxtyping import Array, Float

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.messages import Message
from visor_jax.data.prompts.request import Images, Prompt, Request, Videos
from visor_jax.data.prompts.sampling import GREEDY, Sampling
from visor_jax.flops.table import Row
from visor_jax.inference import checked_arguments as checked
from visor_jax.inference.batch_answers import answer_samples, batch_logits, samples_for
from visor_jax.inference.engine.engine import Engine
from visor_jax.inference.generation import generate as generation
from visor_jax.inference.loading.engine_looks import engine_looks
from visor_jax.inference.loading.network import Network
from visor_jax.inference.looking_twice import look_texts
from visor_jax.inference.model_summary import summary_html
from visor_jax.inference.options import Options, ReadPrompt
from visor_jax.inference.prefilled_parts import read_prompt
from visor_jax.inference.routing.cascade import CASCADE, Cascade
from visor_jax.inference.routing.choose_budgets import AUTO, BudgetChoice
from visor_jax.inference.routing.router import Router
from visor_jax.inference.streamed_answer import StreamedAnswer
from visor_jax.look_cascade import is_look_cascade
from visor_jax.runtime.arguments import whole_number


class VisorModel:
    """A network that answers.

    Where a method takes `prompt`, that is a text or a list of chat messages; `images`
    and `videos` (files or lists of frames) may be there instead. `budget` is a name
    ("none", "all", "sa1:3") or a `Budget`; None for the largest; "auto" for what the
    policy chooses (then `cost` says how much costs count: 0 as it was trained, more for
    cheaper choices); "cascade" for a cheap one first (`routing.cascade`).

    network: what was loaded, whose fields are the model's, too; vlm: its module.
    """

    def __init__(self, network: Network) -> None:
        """Takes the network that answers."""
        self.network, self.vlm = network, network.vlm
        self.config, self.params = network.config, network.params
        self.budgets, self.policy = network.budgets, network.policy
        self.processor, self.metadata = network.processor, network.metadata
        self.tokenizer = network.processor.tokenizer

    @property
    def fingerprint(self) -> str:
        """Digest of all sizes and numbers. See `Network.fingerprint`."""
        return self.network.fingerprint

    def _repr_html_(self) -> str:
        return summary_html(self.network)

    @functools.cached_property
    def _choice(self) -> BudgetChoice:
        return BudgetChoice.of(self.network)

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

        images: files, bytes, PIL images, uint8 arrays; None for none. See `Options`.

        Raises:
          ValueError: for an image that cannot be read, places in the prompt that do not
            match the images, a prompt that is too long or has words the tokenizer does
            not know, or a budget that the network was not trained for.
        """
        request = Request(prompt, images, videos)
        return self.generate_all([request], budget, batch_size=1, **options)[0]

    def chat(
        self,
        messages: Sequence[Message],
        budget: str | Budget | None = None,
        *,
        images: Images = None,
        videos: Videos = None,
        **options: Unpack[Options],
    ) -> str:
        """Returns the assistant's next turn. Options and errors as in `generate`.

        messages: of Hugging Face's form, images in their parts or beside them.
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
        key: Array | int | None = None,
        cost: float = 0.0,
        stop: Sequence[str] = (),
        crops: str | int | None = None,
    ) -> list[str]:
        """Returns the answers to many prompts, in their order.

        Prompts of about the same size are answered together, each as if it were alone.
        What a request says in its options goes before the arguments, which are those of
        `generate`, and so are the errors. All prompts are taken in before the first is
        answered; for more than fit into memory see `engine`.
        """
        how = {"sampling": checked.sampling_of(sampling), "key": checked.key_of(key)}
        count, asked = self._count(max_new_tokens), checked.requests_of(requests)
        how |= {"max_new_tokens": count, "stop": AnswerOptions(stop=stop).stop}
        size = whole_number(batch_size, "batch_size", least=1)
        options = [each.options for each in asked]
        if is_look_cascade(crops):
            budgets = self._choice.named(len(asked), budget, cost, options)
            return look_texts(self.network, asked, crops, budgets, **how)
        model = self._showing(crops, options)
        samples = samples_for(model.network, asked, room=count)
        return answer_samples(
            model._choice,
            model.processor,
            samples,
            model._choice.named(len(samples), budget, cost, options),
            batch_size=size,
            **{"cost": cost, "options": options, **how},
        )

    def stream(
        self,
        images: Images = None,
        prompt: Prompt = "",
        budget: str | Budget | None = None,
        *,
        videos: Videos = None,
        max_new_tokens: int | None = None,
        cost: float = 0.0,
        crops: str | int | None = None,
        **how: Any,
    ) -> Iterator[str]:
        """Yields what `generate` returns in pieces, as they are written.

        Arguments and errors are those of `generate`; errors are raised at the call.
        What a stop string may begin with comes when it is known to be none.
        """
        seen = {"max_new_tokens": max_new_tokens, "cost": cost, "crops": crops}
        read = self.read(Request(prompt, images, videos), budget, **seen)
        return self.pieces(read, **how)

    def read(
        self,
        request: Request,
        budget: str | Budget | None = None,
        *,
        max_new_tokens: int | None = None,
        cost: float = 0.0,
        crops: str | int | None = None,
    ) -> ReadPrompt:
        """Returns what `pieces` answers. Arguments and errors as in `generate`."""
        count, request = self._count(max_new_tokens), checked.request_of(request)
        model = self._showing(request.options.crops or crops)
        sample = model.processor.sample(request, room=count)
        batch, looking = model.processor.batch(sample), model.processor.looking
        read = read_prompt(model._choice, batch, budget, cost, max_new_tokens=count)
        return dataclasses.replace(read, looked_at=looking and looking.report(sample))

    def pieces(self, prompt: ReadPrompt, **how: Any) -> Iterator[str]:
        """Yields the answer to a prompt in pieces; how: sampling, key and stop."""
        return StreamedAnswer.of(self.network, **how).pieces(prompt)

    def look(self, prompt: ReadPrompt, **how: Any) -> ReadPrompt:
        """Returns a cascade's prompt after its first look; `pieces` goes on from there.

        Any other prompt as it is. Arguments are those of `pieces`.
        """
        return StreamedAnswer.of(self.network, **how).look(prompt)

    def choose(
        self,
        requests: Sequence[Request],
        budget: str | Budget | None = AUTO,
        cost: float = 0.0,
    ) -> list[Budget]:
        """Returns the budget of each prompt. Errors are those of `generate`."""
        asked = checked.requests_of(requests)
        model = self._showing(None, [each.options for each in asked])
        seen = samples_for(model.network, asked, room=1)
        return model._choice.of_samples(seen, budget, cost)

    def engine(
        self,
        budget: Router | str | Budget | None = None,
        *,
        cost: float = 0.0,
        budgets: Iterable[str | Budget] = (),
        crops: str | int | None = None,
        looks: Iterable[str | int] = (),
        **options: Any,
    ) -> Engine:
        """Returns an engine for many requests, each in a budget of its own.

        budget: one for all, "auto", "cascade", or another router. crops: of all images.
        budgets, looks: budgets, cascades and crops that requests may ask for beside
        them. options: of `visor_jax.inference.engine.engine.Engine`, which keeps what
        is compiled, images, and their keys and values between calls.

        Raises:
          ValueError: as `BudgetChoice.router` and `engine_looks`.
        """
        router = self._choice.router(budget, cost)
        shown = engine_looks(self.network, crops, looks)
        options |= self._choice.asked(budgets) | shown.options
        return Engine(self.vlm, self.params, shown.processor, router, **options)

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
        batch = checked.batch_of(batch, one_question=self.vlm.reducer.reads_text)
        how = {"model": self.vlm, "gates": self.budget(budget).gates(self.config.plan)}
        return np.asarray(batch_logits(self.params, batch, **how))

    def batch(
        self,
        images: Images = None,
        prompt: Prompt = "",
        *,
        videos: Videos = None,
        max_new_tokens: int | None = None,
    ) -> Batch:
        """Returns the one-row batch of a prompt. Raises ValueError as `generate`."""
        room = self._count(max_new_tokens, least=0)
        sample = self.processor.sample(Request(prompt, images, videos), room=room)
        return self.processor.batch(sample)

    def cost(self, budget: str | Budget | None = None, **lengths: int | None) -> Row:
        """Returns the FLOPs of a budget and what it saves against the dense network.

        budget: any of the network's plan, also one it was not trained for. lengths: and
        errors, see `visor_jax.flops.table.prompt_cost`.
        """
        lengths = checked.lengths_of(lengths)
        return self.network.cost(self.budgets.of_plan(budget), **lengths)

    def budget(self, budget: str | Budget | None = None) -> Budget:
        """Returns the budget of that name. See `BudgetSet.find`."""
        return self.budgets.find(budget)

    def cascade(self, name: str | Cascade = CASCADE) -> Cascade:
        """Returns the cascade of that name. See `BudgetChoice.cascade`."""
        return self._choice.cascade(name)

    def latency(
        self,
        batch: Batch,
        budget: str | Budget | None = None,
        *,
        max_new_tokens: int | None = None,
    ) -> generation.Latency:
        """Returns the measured milliseconds of prefill and of each further token."""
        parts = self.vlm, self.params, checked.batch_of(batch), self.budget(budget)
        limit = {"max_new_tokens": self._count(max_new_tokens)}
        return generation.measure_latency(*parts, **limit)

    def _showing(self, crops: object, options: Iterable[AnswerOptions] = ()) -> Any:
        network = self.network.showing(crops, [each.crops for each in options])
        return self if network is self.network else VisorModel(network)

    def _count(self, max_new_tokens: int | None, *, least: int = 1) -> int:
        count = self.processor.new_tokens if max_new_tokens is None else max_new_tokens
        return whole_number(count, "max_new_tokens", least=least)
