"""The flags of `plan --answers`. Declaring them loads nothing heavy."""

from typing import Any

from absl import flags

from visor_jax.models.config import COMPUTE_DTYPES

_OF_ANSWERS = ("checkpoint", "dtype", "rows", "slots", "new_tokens", "program")
_OF_TRAINING = ("batch_size",)


def define_answer_flags() -> None:
    """Declares the flags of answering."""
    flags.DEFINE_bool(
        "answers",
        False,
        "Plan a network that answers, not training; with --compile, a program of it.",
    )
    flags.DEFINE_string(
        "checkpoint", None, "With --answers, whose sizes; default: the configuration's."
    )
    flags.DEFINE_enum(
        "dtype", None, COMPUTE_DTYPES, "Of parameters and computation, likewise."
    )
    flags.DEFINE_enum(
        "program",
        "prefill",
        ["prefill", "decode"],
        "With --answers --compile: which; 'decode' writes a token of every answer.",
    )
    flags.DEFINE_integer("rows", 8, "With --answers: prompts read at once.")
    flags.DEFINE_integer("slots", 16, "With --answers: answers written at once.")
    flags.DEFINE_integer("new_tokens", 256, "With --answers: of an answer, at most.")


def check_no_answers(options: Any) -> None:
    """Raises ValueError for flags of answering in a plan of training."""
    given = [f"--{name}" for name in _OF_ANSWERS if options[name].present]
    if given:
        raise ValueError(f"{', '.join(given)} belong to --answers: give both.")


def check_no_training(options: Any) -> None:
    """Raises ValueError for flags of training in a plan of answers."""
    given = [f"--{name}" for name in _OF_TRAINING if options[name].present]
    if given:
        raise ValueError(f"{', '.join(given)} are of training: leave them out.")
    if options["compile"].value and not options["topology"].present:
        raise ValueError(
            "--answers --compile asks the TPU's compiler: add --topology=SLICE."
        )
    if options["program"].present and not options["compile"].value:
        raise ValueError("--program is for --compile --topology=SLICE: add them.")
