"""`python -m visor_jax.plan --compile --topology=v5e:4x4`: what the compiler says.

    python -m visor_jax.plan --config=configs/universal.py:llava_ov_0p5b --mesh=1,8,1 \
        --batch_size=8 --crops=5 --image_tokens=2944 --text_tokens=1024 \
        --compile --topology=v5e:2x4 [--effort=full] [--json]
    python -m visor_jax.plan --config=configs/universal.py:demo --answers --rows=1 \
        --compile --topology=v5e:1x1 [--program=decode] [--effort=full] [--json]
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from typing import Any

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.flops.account import account
from visor_jax.models.scanned_columns import repeated_in_training
from visor_jax.plan.answers import AnswerPlan
from visor_jax.plan.tpu.child import (
    CompilerError,
    compile_in_child,
    is_child,
    prepare_compiler,
    print_result,
)
from visor_jax.plan.tpu.compiled_answers import compile_decode, compile_prefill
from visor_jax.plan.tpu.compiled_step import compile_step, mesh_of
from visor_jax.plan.tpu.report import PREFILL, Report
from visor_jax.plan.tpu.slices import Slices, check_compiler
from visor_jax.runtime.user_error import UserError
from visor_jax.token_reduction.trained import as_trained
from visor_jax.training.objectives.universal_step import make_universal_step
from visor_jax.training.state import TrainState

# Of a training step, in forward passes: the backward pass is two.
_PASSES = 3


def read_slices(options: Any, sizes: tuple[int, int, int]) -> Slices | None:
    """Returns the slices that the flags ask for; None without --topology.

    Raises:
      ValueError: if they are not known, do not fit the mesh, or there is no compiler.
    """
    if options.topology is None:
        lone = {"slices": options.slices != 1, "json": options.json}
        if wrong := [f"--{name}" for name, given in lone.items() if given]:
            raise ValueError(f"{', '.join(wrong)} needs --compile --topology=SLICE.")
        return None
    slices = Slices(topology=options.topology, count=options.slices)
    if not options.compile:
        raise ValueError(f"--topology={options.topology} is for --compile: add it.")
    slices.check_mesh(sizes)
    check_compiler()
    return slices


def run(plan: Any, slices: Slices, options: Any, *, described: str) -> int:
    """Returns the exit code, 0 if the step fits and 1 if not, after printing.

    Args:
      plan: a `tasks.training_plan.TrainingPlan`, on a mesh of no devices.
      described: what is planned, for people.

    Raises:
      UserError: if the compiler ends without a result.
    """
    sizes = tuple(plan.mesh.shape.values())
    if is_child():
        _compile(plan, slices, sizes, options.effort)
        return 0
    return _told(
        slices,
        options,
        described,
        mesh=sizes,
        formula=plan.bytes(plan.state(), None).total,
        gated=gated_bodies(plan),
        flops=flops_of(plan),
    )


def run_answers(plan: AnswerPlan, slices: Slices, options: Any) -> int:
    """Returns as `run` does, of a program that answers at the plan's largest budget.

    --program says which: the prefill, or a step of decoding.

    Raises:
      UserError: if the compiler ends without a result.
    """
    sizes, budget = tuple(plan.mesh.shape.values()), plan.budgets.largest
    is_prefill = options.program == PREFILL
    if is_child():
        prepare_compiler()
        compile_it = compile_prefill if is_prefill else compile_decode
        print_result(compile_it(plan, mesh_of(slices, sizes), effort=options.effort))
        return 0
    formula, flops = _counted(plan, budget, is_prefill=is_prefill)
    return _told(
        slices,
        options,
        plan.describe(),
        mesh=sizes,
        formula=formula,
        gated=0,
        flops=flops,
        program=options.program,
        budget=budget.name,
    )


def _counted(plan: AnswerPlan, budget: Budget, *, is_prefill: bool) -> tuple[int, int]:
    """Returns the bytes of a chip by formula, and the FLOPs of all chips."""
    counted, shape = plan.columns()[budget.name], plan.shape
    cost = account(
        plan.config,
        budget,
        text_tokens=shape.text_tokens,
        image_tokens=shape.image_tokens,
        crops=shape.crops,
        batch=shape.prompts if is_prefill else shape.slots,
        logit_positions=1,
    )
    if is_prefill:
        # Answers that are written meanwhile are no part of this program.
        return counted.total - counted.answers, cost.end_to_end
    context = shape.text_tokens + shape.new_tokens - 1
    return counted.parameters + counted.answers, cost.decode_per_token(context)


def _told(slices: Slices, options: Any, described: str, **counted: Any) -> int:
    """Returns the exit code after compiling in a child and printing the report."""
    if not options.json:
        print(f"{described}\n", flush=True)
    try:
        compiled = compile_in_child(slices, sys.argv[1:])
    except CompilerError as error:
        raise UserError(str(error)) from error
    report = Report(slices=slices, effort=options.effort, compiled=compiled, **counted)
    print(json.dumps(report.as_json()) if options.json else report.as_text())
    return 0 if report.fits else 1


def _compile(
    plan: Any, slices: Slices, sizes: tuple[int, int, int], effort: str
) -> None:
    prepare_compiler()
    there = dataclasses.replace(plan, mesh=mesh_of(slices, sizes))
    state, batch = there.stacked(there.state()), there.batch()
    print_result(compile_step(step_of(there), state, batch, there.mesh, effort=effort))


def step_of(plan: Any) -> Callable[[TrainState, Batch], TrainState]:
    """Returns the training step of a plan, as `train` makes it."""
    run, optimizer = plan.run, plan.run.optimizer
    return make_universal_step(
        as_trained(run.model),
        plan.optimizer,
        run.schedule,
        run.objective,
        optimizer.frozen,
        optimizer.accumulate,
        skip_norm=optimizer.skip_norm,
    )


def gated_bodies(plan: Any) -> int:
    """Returns how many layer bodies of the program have a gate.

    One for each gated place of what is repeated where layers are scanned, which those
    between which the reading loss looks are not; and each layer that is written out.
    """
    layers = plan.run.model.plan
    repeated = repeated_in_training(as_trained(plan.run.model))
    if plan.run.model.scan_layers == "off" or repeated is None:
        return len(layers.self_layers)
    behind = sum(layer >= repeated.stop for layer in layers.self_layers)
    return sum(kind.is_gated for kind in repeated.kinds) + behind


def flops_of(plan: Any) -> int:
    """Returns the FLOPs of a step with every layer on, recomputed layers aside."""
    model, shape = plan.run.model, plan.shape
    forward = account(
        model,
        Budget.all(model.plan),
        text_tokens=shape.text_tokens,
        image_tokens=shape.image_tokens,
        crops=shape.crops,
        batch=shape.rows,
    )
    return _PASSES * plan.passes * forward.end_to_end
