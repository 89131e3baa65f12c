"""generation_config.json: how a checkpoint's authors want its answers to be written.

Its end tokens are always used. How tokens are chosen is the caller's decision here,
whose default takes the likeliest; what the file asks for beyond that is not done in
silence: it is said once, and `Sampling.from_checkpoint` does it.
"""

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visor_jax.runtime.json_object import read_json_object

GENERATION = "generation_config.json"
# What transformers takes for what a file leaves out, once it samples.
_TEMPERATURE, _TOP_K = 1.0, 50
# Values of transformers that change answers in ways that are not computed here, each
# with the values that change nothing. The second ones matter where it samples.
_ALWAYS: Mapping[str, tuple[Any, ...]] = {
    **{"num_beams": (1,), "num_beam_groups": (1,), "penalty_alpha": (0,)},
    **{"no_repeat_ngram_size": (0,), "encoder_no_repeat_ngram_size": (0,)},
    **{"encoder_repetition_penalty": (1,), "guidance_scale": (1,)},
    **{"min_length": (0,), "min_new_tokens": (0,), "bad_words_ids": ([],)},
    **{"forced_bos_token_id": (), "forced_eos_token_id": ()},
    **{"suppress_tokens": ([],), "begin_suppress_tokens": ([],)},
    **{"sequence_bias": ({}, []), "exponential_decay_length_penalty": ()},
    **{"constraints": (), "force_words_ids": (), "watermarking_config": ()},
}
_SAMPLING: Mapping[str, tuple[Any, ...]] = {
    **{"min_p": (0,), "typical_p": (1,), "top_h": ()},
    **{"epsilon_cutoff": (0,), "eta_cutoff": (0,)},
}

_logger = logging.getLogger(__name__)


def read_generation_config(folder: Path) -> dict[str, Any]:
    """Returns the object in the folder's file, {} if there is none.

    Raises:
      ValueError: if the file is damaged.
    """
    file = folder / GENERATION
    return read_json_object(file) if file.is_file() else {}


def sampling_fields(folder: Path) -> dict[str, Any]:
    """Returns the fields of `Sampling` that the folder asks for, as transformers reads.

    {} for the likeliest token without a penalty, where there is no file too.

    Raises:
      ValueError: if the file is damaged, or asks for what is not computed here.
    """
    config = read_generation_config(folder)
    unknown = _unsupported(config)
    if unknown:
        listed = ", ".join(f"{name}={value!r}" for name, value in unknown.items())
        raise ValueError(
            f"{folder / GENERATION} asks for {listed}, which is not computed here: "
            "give a Sampling of your own."
        )
    return _fields(config)


def say_what_is_not_done(folder: Path) -> None:
    """Warns, once for a folder, of what answers do not follow unless they are told."""
    config = read_generation_config(folder)
    ignored = {**_fields(config), **_unsupported(config)}
    if ignored:
        listed = ", ".join(f"{name}={value!r}" for name, value in ignored.items())
        _warn_once(
            f"{folder / GENERATION} asks for {listed}: without a sampling that says so "
            "answers are made of the likeliest tokens (visor_jax.Sampling."
            "from_checkpoint(folder) reads what the file asks for)"
        )


def _fields(config: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if _samples(config):
        temperature, top_k = config.get("temperature"), config.get("top_k")
        fields["temperature"] = _TEMPERATURE if temperature is None else temperature
        # 0 keeps all of them.
        fields["top_k"] = (_TOP_K if top_k is None else top_k) or None
        top_p = config.get("top_p")
        if top_p is not None and top_p < 1:
            fields["top_p"] = top_p
    penalty = config.get("repetition_penalty")
    if penalty is not None and penalty != 1:
        fields["repetition_penalty"] = penalty
    return fields


def _samples(config: Mapping[str, Any]) -> bool:
    return bool(config.get("do_sample"))


def _unsupported(config: Mapping[str, Any]) -> dict[str, Any]:
    asked = {**_ALWAYS, **(_SAMPLING if _samples(config) else {})}
    return {
        name: config[name]
        for name, harmless in asked.items()
        if config.get(name) is not None and config[name] not in harmless
    }


@functools.cache
def _warn_once(text: str) -> None:
    _logger.warning("%s", text)
