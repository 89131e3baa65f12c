"""What a task of lmms-eval says of generation, as options of a request.

    {"max_new_tokens": 16, "temperature": 0, "do_sample": False, "until": ["\\n\\n"]}

lmms-eval itself adds "until" with two line breaks where a task says nothing of it.
"""

from collections.abc import Mapping
from typing import Any

from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.sampling import GREEDY, Sampling
from visor_jax.runtime.arguments import finite_number, shown

# How many answers a request is to have, under the names that there are.
_COUNTS = ("num_beams", "num_return_sequences", "n", "best_of")
_KNOWN = (
    *("max_new_tokens", "temperature", "do_sample", "top_p", "top_k"),
    *("repetition_penalty", "until", *_COUNTS),
)


def answer_options(given: Mapping[str, Any], *, new_tokens: int) -> AnswerOptions:
    """Returns the options of one request; nothing in `given` is changed.

    A temperature of 0, or none, takes the likeliest token, unless `do_sample` alone is
    said: then it is 1, as in transformers.

    Args:
      given: the task's. new_tokens: most tokens of an answer where it sets none.

    Raises:
      ValueError: for beams, several answers, or numbers that cannot be.
    """
    for name in _COUNTS:
        if given.get(name) not in (None, 0, 1):
            raise ValueError(
                f"{name}={shown(given[name])}: an answer is written once here, without "
                f"beams: ask for --gen_kwargs {name}=1."
            )
    until = given.get("until")
    until = [until] if isinstance(until, str) else until or ()
    return AnswerOptions(
        max_new_tokens=given.get("max_new_tokens") or new_tokens,
        sampling=_sampling(given),
        stop=tuple(each for each in until if each != ""),
    )


def unknown_names(given: Mapping[str, Any]) -> list[str]:
    """Returns what a task says of generation that changes nothing here."""
    return sorted(set(given) - set(_KNOWN))


def _sampling(given: Mapping[str, Any]) -> Sampling:
    penalty = given.get("repetition_penalty")
    penalty = 1.0 if penalty is None else penalty
    temperature = given.get("temperature")
    if temperature is None:
        temperature = 1.0 if given.get("do_sample") else 0.0
    if given.get("do_sample") is False:
        temperature = 0.0
    temperature = finite_number(temperature, "temperature")
    if temperature == 0:
        # What else it says of drawing has no meaning then.
        return GREEDY if penalty == 1 else Sampling(repetition_penalty=penalty)
    return Sampling(
        temperature=temperature,
        top_p=given.get("top_p"),
        top_k=given.get("top_k") or None,
        repetition_penalty=penalty,
    )
