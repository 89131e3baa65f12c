"""A network as a model of lmms-eval: `lmms-eval --model visor_jax`.

    lmms-eval --model visor_jax --tasks docvqa_val,pope --log_samples \\
        --output_path results --model_args pretrained=PATH_OR_ID,budget=sa1:3

All requests of a call go to the batch engine at once, which draws them as it has room:
a picture is decoded when its turn comes. The chat form asks a task's messages, pictures
where these have them; with --force_simple they come before the text.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from loguru import logger

from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.messages import Message
from visor_jax.data.prompts.request import Request
from visor_jax.evals.lmms_eval.generation_arguments import (
    answer_options,
    unknown_names,
)
from visor_jax.inference.answers import Answer
from visor_jax.inference.engine.engine import Engine
from visor_jax.inference.engine.engine_config import EngineConfig
from visor_jax.inference.files.request_options import budget_name
from visor_jax.inference.loading.engine_looks import engine_looks
from visor_jax.inference.loading.load import load
from visor_jax.runtime.user_error import UserError

# What lmms-eval hands to every model, and sizes of another kind than the engine's.
_OF_LMMS_EVAL = ("batch_size", "max_batch_size", "device")
_KNOWN = (
    *("pretrained", "budget", "reduce", "cost", "dtype", "chat_template"),
    *("max_new_tokens", "seed", "rows", "slots", "memory_gb", "look"),
)


class VisorChat(lmms):
    """The model in the chat form."""

    is_simple = False

    def __init__(
        self,
        pretrained: str | None = None,
        budget: str | int | None = None,
        reduce: str | None = None,
        cost: float = 0.0,
        dtype: str | None = None,
        chat_template: str | None = None,
        max_new_tokens: int = 64,
        seed: int = 0,
        rows: int = 8,
        slots: int = 16,
        memory_gb: float = 4.0,
        look: str | int | None = None,
        **others: Any,
    ) -> None:
        """Opens the network; the arguments are --model_args.

        Args:
          pretrained: path or id, as everywhere.
          budget: its name, "auto" or "cascade"; None for the largest. Names with commas
            stand in quotes. reduce, cost, dtype, chat_template, rows, slots, memory_gb,
            look: as those of `evaluate --benchmarks`.
          max_new_tokens: of answers to tasks that set none. seed: of random sampling.

        Raises:
          UserError: for what the network has not, or arguments that there are not.
        """
        super().__init__()
        unknown = sorted(set(others) - set(_OF_LMMS_EVAL))
        if unknown:
            raise UserError(f"--model_args knows no {unknown} but {list(_KNOWN)}.")
        if pretrained is None:
            raise UserError("--model_args lacks the checkpoint: give pretrained=PATH.")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                f"WORLD_SIZE={os.environ['WORLD_SIZE']}: one process asks all: start "
                "lmms-eval without a launcher."
            )
        try:
            self.visor = load(
                _bare(str(pretrained)),
                dtype=_bare(dtype),
                chat_template=_bare(chat_template),
                reduce=_bare(reduce),
            )
            # What looks like a number comes as one.
            self._look = None if look is None else _bare(str(look))
            engine_looks(self.visor.network, self._look)
            name = None if budget is None else _bare(str(budget))
            self.budget = budget_name(name, self.visor.budgets, self.visor.cascade)
            self._sizes = EngineConfig.of(
                rows=rows,
                slots=slots,
                new_tokens=max_new_tokens,
                memory_bytes=int(1e9 * memory_gb),
            )
        except ValueError as error:
            raise UserError(str(error)) from error
        self._cost, self._seed = cost, seed
        self._engines: dict[int, Engine] = {}

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Returns the answers in the order of the requests, with their token counts.

        A request that ends in an error is logged, and its answer is empty.

        Raises:
          UserError: for generation arguments that are not computed here, before any is
            answered; or if every request ends in an error.
        """
        options = [self._options(each) for each in requests]
        found = [GenerationResult("") for _ in requests]
        errors: dict[int, str] = {}
        for answer in self._answers(requests, options, errors):
            place = answer.request.place
            found[place] = _result(answer)
            if answer.error is not None:
                errors[place] = answer.error
        for place, error in sorted(errors.items()):
            asked = requests[place]
            logger.error(f"{asked.task_name}, document {asked.doc_id}: {error}")
        if errors and len(errors) == len(requests):
            raise UserError(f"No request could be answered: {errors[0]}")
        if errors:
            logger.error(f"{len(errors)} of {len(requests)} answers are errors: empty.")
        return found

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Raises NotImplementedError."""
        raise NotImplementedError(
            "visor_jax writes answers: choose tasks with output_type generate_until."
        )

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Raises NotImplementedError."""
        raise NotImplementedError(
            "visor_jax answers one turn: choose tasks with output_type generate_until."
        )

    def _answers(
        self,
        requests: Sequence[Instance],
        options: Sequence[AnswerOptions],
        errors: dict[int, str],
    ) -> Iterator[Answer]:
        """Yields the engine's answers as it finishes them.

        errors: gets, by place, why a document's messages could not be made.
        """

        def asked() -> Iterator[Request]:
            for place, (each, how) in enumerate(zip(requests, options, strict=True)):
                try:
                    yield _PlacedRequest(self._messages(each), options=how, place=place)
                except (OSError, ValueError) as error:  # A damaged picture, say.
                    errors[place] = str(error)

        longest = max((each.max_new_tokens or 1 for each in options), default=1)
        return self._engine(longest).answers(asked())

    def _engine(self, new_tokens: int) -> Engine:
        """Returns the engine for answers of this length, made when it is first used."""
        if new_tokens not in self._engines:
            config = dataclasses.replace(self._sizes, new_tokens=new_tokens)
            self._engines[new_tokens] = self.visor.engine(
                self.budget,
                cost=self._cost,
                crops=self._look,
                config=config,
                key=self._seed,
            )
        return self._engines[new_tokens]

    def _options(self, asked: Instance) -> AnswerOptions:
        given = self._generation_arguments(asked)
        unknown = unknown_names(given)
        if unknown:
            logger.warning(f"{asked.task_name}: {unknown} change nothing here.")
        try:
            return answer_options(given, new_tokens=self._sizes.new_tokens)
        except ValueError as error:
            raise UserError(f"{asked.task_name}: {error}") from error

    def _generation_arguments(self, asked: Instance) -> Mapping[str, Any]:
        return asked.args[2]

    def _messages(self, asked: Instance) -> list[Message]:
        """Returns the document's messages, pictures in their parts."""
        _, messages_of, _, *place = asked.args
        return messages_of(self._document(*place))

    def _document(self, number: int, task: str, split: str) -> Mapping[str, Any]:
        return self.task_dict[task][split][number]


class VisorSimple(VisorChat):
    """The model in the simple form: pictures, and behind them the text."""

    is_simple = True

    def _generation_arguments(self, asked: Instance) -> Mapping[str, Any]:
        return asked.args[1]

    def _messages(self, asked: Instance) -> list[Message]:
        text, _, pictures_of, *place = asked.args
        shown = pictures_of(self._document(*place)) or []
        content: list[Any] = [{"type": "image", "url": each} for each in shown]
        content.append({"type": "text", "text": text})
        return [{"role": "user", "content": content}]


@dataclasses.dataclass(frozen=True)
class _PlacedRequest(Request):
    """A request that says which of the call's it is."""

    place: int = 0


def _result(answer: Answer) -> GenerationResult:
    read = answer.text_tokens + answer.image_tokens
    counts = TokenCounts(input_tokens=read, output_tokens=len(answer.tokens))
    return GenerationResult(answer.text, None if answer.error else counts)


def _bare(text: str | None) -> str | None:
    """Returns a value without the quotes that keep its commas together."""
    if text and text[0] == text[-1] and text[0] in "\"'" and len(text) > 1:
        return text[1:-1]
    return text
