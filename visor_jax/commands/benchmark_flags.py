"""The flags of `evaluate` that are about known benchmarks, and what they do.

`--benchmarks` asks, `--rescore` scores again what was answered, `--export` writes it
for other harnesses, `--list_benchmarks` says which there are.
"""

import contextlib
import sys
from pathlib import Path
from typing import Any

from absl import flags

from visor_jax.commands import answer_flags, answered_benchmarks, command_line
from visor_jax.data.prompts.chat_template import TEMPLATES
from visor_jax.models.config import COMPUTE_DTYPES

_OF_THE_REPORT = ("out", "pages", "budgets", "untrained", "split", "cascade")
_OF_BENCHMARKS = (
    *("data", "output", "budget", "limit", "overwrite", "retry_errors"),
    *("dtype", "chat_template", "rows", "slots", "memory_gb", "look"),
)


def define_benchmark_flags() -> None:
    """Declares the flags."""
    flags.DEFINE_list(
        "benchmarks", None, "Known benchmarks to ask, such as docvqa,pope."
    )
    flags.DEFINE_bool("list_benchmarks", False, "List them, and what files they need.")
    flags.DEFINE_string("data", None, "Folder of their files; nothing is fetched.")
    flags.DEFINE_string("output", None, "Folder of predictions; a stopped run goes on.")
    flags.DEFINE_string(
        "budget", None, "One budget for --benchmarks, or 'auto'; default: most."
    )
    flags.DEFINE_integer(
        "limit",
        None,
        "So many questions of each, or a few more: whole groups (questions about one "
        "picture, a circle), spread evenly over all.",
        lower_bound=1,
    )
    flags.DEFINE_bool("rescore", False, "Score again what is in --output.")
    flags.DEFINE_list(
        "export",
        None,
        "Write what is in --output, asked from --data, for 'lmms_eval' (the lines of "
        "its --log_samples) or 'vlmevalkit' (its table with predictions, .xlsx).",
    )
    flags.DEFINE_bool("overwrite", False, "Ask anew, whatever --output holds.")
    flags.DEFINE_bool("retry_errors", False, "Ask again what ended in an error.")
    flags.DEFINE_enum("dtype", None, COMPUTE_DTYPES, "Default: as stored.")
    flags.DEFINE_enum(
        "chat_template", None, sorted(TEMPLATES), "Default: the checkpoint's."
    )
    flags.DEFINE_integer("rows", 8, "Prompts read at once, a power of two.")
    flags.DEFINE_integer("slots", 16, "Answers written at once.")
    flags.DEFINE_float("memory_gb", 4.0, "Of the device, beside the parameters.")
    answer_flags.define_look_flag()


def are_about_benchmarks(options: Any) -> bool:
    """Returns whether the flags ask for anything of this module."""
    about = (options.list_benchmarks, options.rescore, options.export)
    return any(about) or bool(options.benchmarks)


def check_alone(options: Any) -> None:
    """Raises ValueError for flags of benchmarks without `--benchmarks`."""
    wrong = [f"--{name}" for name in _OF_BENCHMARKS if options[name].present]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} belong to --benchmarks: give both.")


def run(options: Any) -> None:
    """Does what the flags ask for. Exits with 130 when it is stopped."""
    if options.list_benchmarks:
        print(_listing())
    elif options.rescore:
        with command_line.user_errors():
            answered_benchmarks.rescore(options)
    elif options.export:
        with command_line.user_errors():
            answered_benchmarks.export_predictions(options)
    else:
        _ask(options)


def _listing() -> str:
    from visor_jax.evals.benchmarks.registry import BENCHMARKS

    blocks = []
    for name, each in BENCHMARKS.items():
        config = f", {each.source.config}" if each.source.config else ""
        table = f"\n  or {each.tsv}.tsv: {', '.join(each.tsv_columns)}"
        blocks.append(
            f"{name}: {each.count} questions, {each.metric}, at most "
            f"{each.new_tokens} new tokens\n"
            f"  {' or '.join(each.source.ids)}{config}, split {each.source.split}: "
            f"{', '.join(each.columns)}{table if each.tsv_columns else ''}"
        )
    return "\n".join(blocks)


def _ask(options: Any) -> None:
    from visor_jax.runtime.interruption import Interruption
    from visor_jax.runtime.ownership import owned_folder

    with contextlib.ExitStack() as stack:
        with command_line.user_errors():
            folder = answered_benchmarks.predictions_folder(options)
            _check(options)
            benchmarks = _opened(options)
            stack.enter_context(owned_folder(folder, remedy=answered_benchmarks.REMEDY))
            asked = _prepared(options, benchmarks, folder)
        stop = stack.enter_context(Interruption())
        for question in asked:
            if not question(stop):
                _say(
                    f"interrupted: the same command goes on from {folder}"
                    + (" (without --overwrite)" if options.overwrite else "")
                )
                sys.exit(command_line.INTERRUPTED)
        from visor_jax.evals.answered import lines

        files = [lines.file_of(folder, each.name) for each in benchmarks]
        answered_benchmarks.report(folder, files)


def _check(options: Any) -> None:
    if options.data is None:
        raise ValueError("--benchmarks need their files: give --data=FOLDER.")
    if not options.checkpoint or len(options.checkpoint) != 1:
        raise ValueError(
            f"--checkpoint={','.join(options.checkpoint or [])}: --benchmarks ask one "
            "network: give one checkpoint."
        )
    wrong = [f"--{name}" for name in _OF_THE_REPORT if options[name].present]
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)} are not for --benchmarks: leave them out."
        )
    names = options.benchmarks
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"--benchmarks has {', '.join(repeated)} more than once.")
    _cost(options)


def _opened(options: Any) -> list[Any]:
    from visor_jax.evals.benchmarks.registry import definition_of
    from visor_jax.evals.tables.table_benchmark import TableBenchmark

    definitions = [definition_of(name) for name in options.benchmarks]
    found = []
    for definition in definitions:
        # Looking at every picture of a large one takes its time.
        _say(f"{definition.name}: reading its files in {options.data}")
        benchmark = TableBenchmark.open(
            definition, Path(options.data), limit=options.limit
        )
        if benchmark.limited is not None:
            _say(benchmark.limited)
        found.append(benchmark)
    return found


def _prepared(options: Any, benchmarks: list[Any], folder: Path) -> list[Any]:
    """Returns a function for each benchmark that asks it; all are checked by then."""
    from visor_jax.evals.answered import asking
    from visor_jax.inference.files.request_options import budget_name
    from visor_jax.inference.loading.load import load

    model = load(
        options.checkpoint[0],
        dtype=options.dtype,
        chat_template=options.chat_template,
        reduce=options.reduce,
        mesh=answer_flags.mesh_of(options),
    )
    budget = budget_name(options.budget, model.budgets, model.cascade)
    cost = _cost(options)
    engines = {
        count: _engine(model, options, budget, cost, count)
        for count in {each.new_tokens for each in benchmarks}
    }
    said = {
        "budget": budget,
        "cost": cost,
        "chat_template": options.chat_template,
        "look": options.look,
    }
    files = [
        asking.answer_file(
            each,
            folder,
            asking.common_settings(model, each, **said),
            overwrite=options.overwrite,
            retry_errors=options.retry_errors,
        )
        for each in benchmarks
    ]

    def asks(benchmark: Any, file: Any) -> Any:
        return lambda stop: _ask_one(
            engines[benchmark.new_tokens], model, benchmark, file, budget, stop
        )

    return [asks(*each) for each in zip(benchmarks, files, strict=True)]


def _cost(options: Any) -> float:
    if options.cost is None:
        return 0.0
    if len(options.cost) != 1:
        raise ValueError(
            f"--cost={','.join(options.cost)}: --benchmarks take one number."
        )
    try:
        return float(options.cost[0])
    except ValueError as error:
        raise ValueError(f"--cost={options.cost[0]}: {error}.") from error


def _engine(model: Any, options: Any, budget: str, cost: float, count: int) -> Any:
    from visor_jax.inference.engine.engine_config import EngineConfig

    config = EngineConfig.of(
        rows=options.rows,
        slots=options.slots,
        new_tokens=count,
        memory_bytes=int(1e9 * options.memory_gb),
    )
    return model.engine(budget, cost=cost, crops=options.look, config=config)


def _ask_one(
    engine: Any, model: Any, benchmark: Any, file: Any, budget: str, stop: Any
) -> bool:
    from visor_jax.evals.answered import asking
    from visor_jax.runtime.progress import Progress

    before, total = len(file.done), len(benchmark)
    if before:
        _say(f"{benchmark.name}: {before} of {total} questions were answered before")
    about = {"description": benchmark.name, "unit": "questions", "start": before}
    with file, Progress(total, **about) as bar:
        return asking.ask(
            engine,
            model,
            benchmark,
            file,
            budget=budget,
            stop=lambda: stop.requested,
            progress=lambda done, errors: bar.update(done, errors=errors),
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
