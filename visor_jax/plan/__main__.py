"""Plans the memory of a training run: what every device holds, and whether it fits.

    python -m visor_jax.plan --config=configs/universal.py:llava_ov_0p5b --mesh=8,4,1
    python -m visor_jax.plan --config=configs/universal.py:llava_ov_7b --mesh=1,64,1 \
        --batch_size=64 --crops=10 --image_tokens=7424 --text_tokens=1024 --device=v5p
    python -m visor_jax.plan --config=configs/universal.py:llava_ov_0p5b --mesh=1,8,1 \
        --batch_size=8 --crops=2 --image_tokens=1485 --text_tokens=512 --compile
    python -m visor_jax.plan --config=configs/universal.py:llava_ov_7b --mesh=2,1,4 \
        --answers --dtype=bfloat16 --device=v5e

No accelerator is needed and nothing is allocated: state and batch are counted from
their shapes and shardings, activations by formula (`activations`). `--compile` asks a
compiler as well (minutes): the CPU's, for simulated devices, which schedules otherwise
and has bfloat16 in float32; with `--topology=v5e:2x4` the TPU's (`.[tpu]`): exit code 0
if it fits, 1 if not, 2 if not compiled. `--answers` plans a network that answers.
"""

from absl import flags

from visor_jax.commands import command_line, config_flag, plan_flags, tpu_flags


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    config_flag.define_config_flag()
    flags.DEFINE_string("mesh", None, "DATA,FSDP,TENSOR; else the configuration's.")
    flags.DEFINE_integer(
        "batch_size", None, "Rows of the global batch; default: the configuration's."
    )
    flags.DEFINE_integer("crops", None, "Of a row; default: largest bucket.")
    flags.DEFINE_integer("image_tokens", None, "Of a row, likewise.")
    flags.DEFINE_integer("text_tokens", None, "Of a row, likewise.")
    flags.DEFINE_string("device", None, "One device, e.g. v5e; default: all.")
    flags.DEFINE_bool("compile", False, "Also ask the compiler (minutes).")
    plan_flags.define_answer_flags()
    tpu_flags.define_tpu_flags()


if __name__ == "__main__":
    command_line.begin(define_flags)

import dataclasses
import math
from typing import Any

import jax

from visor_jax.plan import answers
from visor_jax.plan.accelerators import chosen
from visor_jax.plan.mesh_flag import read_mesh
from visor_jax.plan.table import ANY_BUDGET, FOOTNOTE, device_table, step_table
from visor_jax.plan.tpu import command as tpu_command
from visor_jax.settings.read import read_settings
from visor_jax.tasks.training_plan import describe, read_plan, read_shape


def _plan_answers(options: Any) -> int:
    """Prints the plan of a network that answers; returns a code."""
    with command_line.user_errors():
        plan_flags.check_no_training(options)
        jax.config.update("jax_platforms", "cpu")
        plan = _answer_plan(options)
        slices = tpu_command.read_slices(options, tuple(plan.mesh.shape.values()))
        text = answers.as_text(plan, chosen(options.device))
    if slices is not None:
        return tpu_command.run_answers(plan, slices, options)
    print(text)
    return 0


def _answer_plan(options: Any) -> answers.AnswerPlan:
    if options.checkpoint is not None:
        return answers.read_plan(options, options.checkpoint, None, {})
    run = read_settings(config_flag.config_of(options), data_needed=False)
    lengths, network = read_shape(run, options), (run.model, run.budgets)
    name = f"{run.label} {run.preset}"
    return answers.read_plan(options, name, network, dataclasses.asdict(lengths))


def main(arguments: list[str]) -> int:
    """Prints the plan, and with --compile what the compiler says; returns a code."""
    del arguments
    options = flags.FLAGS
    if options.answers:
        return _plan_answers(options)
    with command_line.user_errors():
        plan_flags.check_no_answers(options)
        run = read_settings(config_flag.config_of(options), data_needed=False)
        if run.task != "universal":
            raise ValueError(f"task={run.task!r}: only universal training is planned.")
        sizes = read_mesh(options.mesh, run.mesh)
        # Whatever accelerator there is stays free.
        jax.config.update("jax_platforms", "cpu")
        slices = tpu_command.read_slices(options, sizes)
        if options.compile and slices is None:
            jax.config.update("jax_num_cpu_devices", math.prod(sizes))
        devices = chosen(options.device)
        plan = read_plan(run, sizes, options)
        state = plan.state()
    if slices is not None:
        return tpu_command.run(plan, slices, options, described=describe(plan))
    columns = {ANY_BUDGET: plan.bytes(state, None)}
    for budget in (run.budgets.smallest, run.budgets.largest):
        columns[budget.name] = plan.bytes(state, budget)
    needed = columns[ANY_BUDGET].total
    print(f"{describe(plan)}\n\n{step_table(columns)}\n")
    print(f"{device_table(needed, devices)}\n\n{FOOTNOTE}")
    if options.compile:
        reserved = plan.reserved(state)
        print(
            f"\nthe CPU's compiler reserves {reserved / 1e9:.3f} GB; the plan is "
            f"{needed / reserved - 1:+.1%} of that"
        )
    return 0


if __name__ == "__main__":
    command_line.run(main)
