"""One prompt, answered piece by piece; a cascade's first look is answered silently."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Key

from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.processor import Processor
from visor_jax.data.prompts.sampling import GREEDY, Sampling
from visor_jax.inference import checked_arguments as checked
from visor_jax.inference.confidence import confidence, written_length
from visor_jax.inference.generation.decode import decode_scored, decode_stream
from visor_jax.inference.generation.finite import check_written, first_row
from visor_jax.inference.generation.generate import keys_of_rows
from visor_jax.inference.loading.network import Network
from visor_jax.inference.options import Attempt, ReadPrompt
from visor_jax.inference.prefilled_parts import prefilled_prompt
from visor_jax.models.vlm import VLM

Params = Any


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StreamedAnswer:
    """How one prompt is answered by a network."""

    model: VLM
    params: Params
    processor: Processor
    sampling: Sampling
    key: Key[Array, "*B"] | None
    stop: Sequence[str]

    @classmethod
    def of(
        cls,
        network: Network,
        *,
        sampling: Sampling = GREEDY,
        key: Array | int | None = None,
        stop: Sequence[str] = (),
    ) -> "StreamedAnswer":
        """Returns it. Raises ValueError for what is no sampling, key or texts."""
        return cls(
            model=network.vlm,
            params=network.params,
            processor=network.processor,
            sampling=checked.sampling_of(sampling),
            key=checked.key_of(key),
            stop=AnswerOptions(stop=stop).stop,
        )

    def look(self, prompt: ReadPrompt) -> ReadPrompt:
        """Returns the prompt after its first look, with its answer or to look again.

        A prompt that no cascade is for, or that was looked at, stays as it is.
        """
        prompt = checked.read_prompt_of(prompt)
        if prompt.cascade is None or prompt.first is not None:
            return prompt
        prefilled = prefilled_prompt(self.model, self.params, prompt)
        written = decode_scored(self.model, self.params, prefilled, **self._how(prompt))
        tokens, log_probs = (np.asarray(each)[0] for each in written)
        check_written(tokens, self.params)
        length = written_length(tokens, self.processor, self.stop)
        sure = confidence(log_probs[:length])
        first = Attempt(budget=prompt.budget, confidence=sure, steps=length - 1)
        if prompt.cascade.looks_again(sure):
            second = prompt.cascade.second
            return dataclasses.replace(prompt, budget=second, first=first)
        tokens = tuple(tokens[:length].tolist())
        return dataclasses.replace(prompt, tokens=tokens, first=first)

    def pieces(self, prompt: ReadPrompt) -> Iterator[str]:
        """Yields the answer's text; what looks for errors is done at the call."""
        prompt = self.look(prompt)
        if prompt.tokens is not None:
            return self.processor.pieces(prompt.tokens, stop=self.stop)
        prefilled = prefilled_prompt(self.model, self.params, prompt)
        tokens = decode_stream(self.model, self.params, prefilled, **self._how(prompt))
        return self.processor.pieces(first_row(tokens, self.params), stop=self.stop)

    def _how(self, prompt: ReadPrompt) -> dict[str, Any]:
        return {
            "max_new_tokens": prompt.max_new_tokens,
            "eos_id": self.processor.eos_ids,
            "pad_id": self.processor.pad_id,
            "sampling": self.sampling,
            "row_keys": None if self.key is None else keys_of_rows(self.key, 1),
        }
