"""`python -m visor_jax.answer`: answers a file of requests, each line by itself.

    python -m visor_jax.answer --checkpoint=runs/universal --input=requests.jsonl \\
        --output=answers.jsonl [--budget=sa1:3]

Lines in: `inference.files.request_file`; out: `inference.files.answer_file`. A line may
say its own budget, crops, length, sampling, seed and stop strings; what it does not say
the flags say. A request that cannot be answered is an answer with an error, which
--retry_errors asks again. A run that was stopped (Ctrl-C, power) goes on with the same
command; with other settings or requests it is refused. With --warm_up all programs are
compiled first; without --input that is all.
"""

from absl import flags

from visor_jax.commands import answer_flags, command_line


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    answer_flags.define_network_flags()
    flags.DEFINE_string("input", None, "Requests, JSON lines.")
    flags.DEFINE_string("output", None, "Answers, JSON lines; a stopped run goes on.")
    flags.DEFINE_bool("overwrite", False, "Begin again, whatever the output holds.")
    flags.DEFINE_bool("retry_errors", False, "Answer again what ended in an error.")
    flags.DEFINE_string("image_root", None, "Of relative images; default: the input's.")
    answer_flags.define_answer_flags()
    answer_flags.define_look_flag()
    answer_flags.define_engine_flags()
    flags.DEFINE_bool("warm_up", False, "Compile all programs first.")


if __name__ == "__main__":
    command_line.begin(define_flags)

import collections
import contextlib
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from visor_jax.checkpoints import layout
from visor_jax.data.buckets import Bucket
from visor_jax.data.prompts.sampling import Sampling
from visor_jax.inference.engine.engine import Engine
from visor_jax.inference.files.answer_file import (
    AnswerFile,
    Settings,
    check_apart,
    error_of,
    record_of,
)
from visor_jax.inference.files.request_file import RequestEntry, read_requests
from visor_jax.inference.files.request_options import (
    budget_name,
    draws_from_common_key,
    known_budgets,
    known_looks,
    options_of,
    with_defaults,
)
from visor_jax.inference.routing.choose_budgets import AUTO
from visor_jax.inference.visor_model import VisorModel
from visor_jax.look import ALL
from visor_jax.look_cascade import look_name
from visor_jax.models.vlm import VLM
from visor_jax.runtime import output_place
from visor_jax.runtime.interruption import Interruption
from visor_jax.runtime.ownership import owned_file
from visor_jax.runtime.progress import Progress


def main(arguments: list[str]) -> None:
    """Answers what the flags name. Exits with 130 when it is stopped."""
    del arguments
    options = flags.FLAGS
    with contextlib.ExitStack() as files:
        with command_line.user_errors():
            _check(options)
            if options.output is not None:
                files.enter_context(
                    owned_file(
                        options.output,
                        remedy="Wait for it, stop it, or choose another --output.",
                    )
                )
            sampling = answer_flags.sampling_of(options)
            lines = [] if options.input is None else _requests(options)
            model = answer_flags.load_network(options)
            said_of_all = {
                "budget": budget_name(options.budget, model.budgets, model.cascade),
                "max_new_tokens": _default_length(model, options),
                "stop": options.stop,
                "crops": options.look,
            }
            lines = [with_defaults(line, **said_of_all) for line in lines]
            engine = _engine(model, lines, options, sampling)
            buckets = _buckets(engine, options)
            answers = None
            if options.output is not None:
                settings = _settings(model, engine, lines, options, sampling)
                answers = files.enter_context(_answers(lines, settings, options))
        if options.warm_up:
            began = time.perf_counter()
            count = engine.warm_up(buckets, report=_report_program)
            _say(f"compiled {count} programs in {time.perf_counter() - began:.0f} s")
        if answers is None or answer_lines(engine, lines, answers, model.vlm):
            return
    again = "the same command"
    if options.overwrite:
        again += " without --overwrite"
    _say(
        f"interrupted: {len(answers.done)} of {len(lines)} answers are in "
        f"{options.output}; {again} goes on from there"
    )
    sys.exit(command_line.INTERRUPTED)


def answer_lines(
    engine: Engine,
    lines: Sequence[RequestEntry],
    answers: AnswerFile,
    model: VLM,
) -> bool:
    """Returns whether all lines are answered in the file; False if it was stopped.

    answers: entered by the caller.
    """
    missing = [line for line in lines if line.id not in answers.done]
    before, began = len(lines) - len(missing), time.perf_counter()
    if before:
        _say(f"{before} of {len(lines)} requests were answered before")
    budgets: collections.Counter[str] = collections.Counter()
    description = {"description": "answers", "unit": "samples", "start": before}
    with Interruption() as stop, Progress(len(lines), **description) as bar:
        try:
            for line in missing:
                if line.request is None:
                    answers.write(error_of(line, line.error))
            asked = [line for line in missing if line.request is not None]
            for finished in engine.rounds(line.request for line in asked):
                for answer in finished:
                    record = record_of(asked[answer.number], answer, model)
                    answers.write(record)
                    budgets[record.get("budget", "error")] += 1
                bar.update(len(answers.done), errors=answers.failed)
                if stop.requested:
                    return False
        except KeyboardInterrupt:
            return False
    seconds = time.perf_counter() - began
    del budgets["error"]
    chosen = ", ".join(f"{name} {count}" for name, count in sorted(budgets.items()))
    _say(
        f"{len(lines)} requests, {answers.failed} errors; this run: {len(missing)} in "
        f"{seconds:.1f} s, {len(missing) / seconds:.3g} samples/s; {chosen or 'none'}"
    )
    return True


def _check(options: Any) -> None:
    if (options.input is None) != (options.output is None):
        raise ValueError("--input and --output belong together: give both or none.")
    if options.input is None and not options.warm_up:
        raise ValueError("Nothing to do: give --input and --output, or --warm_up.")
    if options.output is not None:
        layout.check_local(options.output, "--output")
        output_place.check_file(options.output, "--output")
        check_apart(Path(options.input), Path(options.output))


def _requests(options: Any) -> list[RequestEntry]:
    root = None if options.image_root is None else Path(options.image_root)
    return read_requests(Path(options.input), image_root=root)


def _engine(
    model: VisorModel, lines: Sequence[RequestEntry], options: Any, sampling: Sampling
) -> Engine:
    """Returns an engine that has room for every line, whatever it says itself."""
    said = options_of(lines)
    lengths = [each.max_new_tokens for each in said]
    count = max([_default_length(model, options), *lengths])
    asks = any(each.budget == AUTO for each in said)
    chooses = asks and model.policy is not None
    return model.engine(
        AUTO if chooses else options.budget,
        cost=options.cost,
        budgets=known_budgets(said, model.budgets, model.cascade),
        crops=options.look,
        looks=known_looks(said, model.network),
        config=answer_flags.engine_config(options, count),
        sampling=sampling,
        key=jax.random.key(options.seed),
    )


def _default_length(model: VisorModel, options: Any) -> int:
    """Returns the most tokens of an answer whose line says no number."""
    return options.max_new_tokens or model.processor.new_tokens


def _answers(
    lines: Sequence[RequestEntry], settings: Settings, options: Any
) -> AnswerFile:
    return AnswerFile(
        Path(options.output),
        {line.id: line.digest for line in lines},
        settings,
        pictures={line.id: line.pictures for line in lines},
        overwrite=options.overwrite,
        retry_errors=options.retry_errors,
    )


def _settings(
    model: VisorModel,
    engine: Engine,
    lines: Sequence[RequestEntry],
    options: Any,
    sampling: Sampling,
) -> dict[str, Any]:
    """Returns what answers depend on beside their requests."""
    draws = draws_from_common_key(options_of(lines), sampling)
    budgets = [budget.name for budget in engine.router.budgets]
    if options.budget != AUTO:
        # Some line may ask to have it chosen: that is in its digest.
        budgets = [budget_name(options.budget, model.budgets, model.cascade)]
    settings = {
        "checkpoint": model.fingerprint,
        "chat_template": options.chat_template,
        "budgets": budgets,
        "cost": options.cost,
        "max_new_tokens": _default_length(model, options),
        **dataclasses.asdict(sampling),
        "seed": options.seed if draws else None,
    }
    look = None if options.look is None else look_name(options.look)
    optional = {
        "stop": options.stop,
        "reduce": model.network.reduce,
        "look": None if look == ALL.name else look,
    }
    return settings | {name: value for name, value in optional.items() if value}


def _buckets(engine: Engine, options: Any) -> list[Bucket]:
    """Returns the buckets to warm up. Raises ValueError for none, or too large ones."""
    chosen = answer_flags.warmed_buckets(options, engine.processor.buckets)
    if options.warm_up:
        for bucket in chosen:
            engine.shapes.check(bucket)
    return chosen


def _report_program(done: int, total: int, name: str, seconds: float) -> None:
    _say(f"program {done} of {total}: {name}, {seconds:.1f} s")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    command_line.run(main)
