"""What is told of a child that ended, and of a step that was compiled."""

import dataclasses
import json
import re
import signal

import pytest

from visor_jax.plan.tpu.child import reason
from visor_jax.plan.tpu.compiled_step import CompiledStep, too_much
from visor_jax.plan.tpu.program_text import Collective
from visor_jax.plan.tpu.report import Report
from visor_jax.plan.tpu.slices import Slices

SLICES = Slices(topology="v5e:2x4")
COMPILED = CompiledStep(
    lower_s=3.1,
    compile_s=22.8,
    parameters=400_000_000,
    optimizer=800_000_000,
    batch=200_000_000,
    arguments=1_400_000_000,
    new_results=0,
    temporary=2_900_000_000,
    code=10_000_000,
    peak=4_100_000_000,
    conditionals=2,
    whiles=109,
    kernels={"tags_forward": 2},
    collectives={"all-gather": Collective(count=134, bytes=1_000_000_000)},
    largest=50_000_000,
    program_mb=10.5,
)


def report_of(compiled, **changed):
    given = {"formula": 4_515_000_000, "gated": 1, "flops": 2 * 10**14} | changed
    return Report(
        slices=SLICES, mesh=(1, 8, 1), effort="fast", compiled=compiled, **given
    )


def test_a_report_sets_the_formula_beside_the_compiler():
    report = report_of(COMPILED)
    assert (report.verdict, report.fits) == ("fits", True)
    # 8 chips of 197 TFLOP/s, 40 % of them.
    assert report.step_seconds == pytest.approx(2e14 / (0.4 * 8 * 197e12))
    text = report.as_text()
    for part in (
        "v5e:2x4: 8 chips of 16 GB on 2 hosts; effort fast",
        "lowered in 3.1 s, compiled in 22.8 s",
        "   4.310   fits (11.690 left)",
        "   4.100\n",
        "   4.515   +5.0%",
        "conditionals 2, at least 2 for the gates; loops 109; 10.5 MB",
        "tags_forward x 2",
        "all-gather x 134 (1.000 GB)",
    ):
        assert part in text
    fields = json.loads(json.dumps(report.as_json()))
    assert fields["verdict"] == "fits"
    assert fields["mesh"] == {"data": 1, "fsdp": 8, "tensor": 1}
    assert fields["hbm"] == 16 * 10**9
    assert fields["peak"] == COMPILED.peak
    # Arguments and temporary arrays; with the program, what the chip must have.
    assert (fields["reserved"], fields["needed"]) == (4_300_000_000, 4_310_000_000)
    # Less than 8 % of the memory is left, and none.
    tight, over = (dataclasses.replace(COMPILED, peak=n * 10**9) for n in (15, 17))
    assert [report_of(each).verdict for each in (tight, over)] == [
        "tight",
        "does not fit",
    ]
    assert not report_of(over).fits


def test_a_prefill_has_no_optimiser_and_its_own_speed():
    prefill = dataclasses.replace(COMPILED, optimizer=0, conditionals=0)
    report = report_of(
        prefill, gated=0, flops=3 * 10**12, program="prefill", budget="sa2:1,3"
    )
    text = report.as_text()
    assert "optimiser" not in text
    # 3 TFLOP by 8 chips of 197 TFLOP/s, 40 % of them.
    assert "3000.00 GFLOP a prefill at sa2:1,3: 4.759 ms at 40 %" in text
    fields = report.as_json()
    assert (fields["program"], fields["budget"]) == ("prefill", "sa2:1,3")
    token = report_of(prefill, gated=0, flops=10**9, program="decode", budget="all")
    # What is read of a v5e's memory, 819 GB a second.
    read = COMPILED.arguments / 819e9
    assert "1.00 GFLOP a token of every answer at all; to read" in token.as_text()
    assert f"{1e3 * read:.3f} ms" in token.as_text()
    assert token.as_json()["read_s"] == round(read, 6)
    assert "step_s_at_40_percent" not in token.as_json()
    assert "optimiser" in report_of(COMPILED).as_text()


def test_what_is_there_and_not_read_takes_its_place():
    """...as the tower does while answers are written."""
    there = COMPILED.parameters + COMPILED.optimizer + COMPILED.batch
    assert COMPILED.unread == max(0, there - COMPILED.arguments) == 0
    more = dataclasses.replace(COMPILED, parameters=COMPILED.parameters + 7 * 10**9)
    unread = there + 7 * 10**9 - COMPILED.arguments
    assert unread > 6 * 10**9
    assert more.unread == unread
    assert more.needed == COMPILED.needed + unread
    assert "there, and not read" in report_of(more).as_text()
    assert "there, and not read" not in report_of(COMPILED).as_text()


def test_a_child_tells_what_it_found_as_json():
    sent = json.loads(json.dumps(dataclasses.asdict(COMPILED)))
    assert CompiledStep.from_dict(sent) == COMPILED


def test_a_program_that_does_not_fit_is_an_answer():
    said = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
        "memory space hbm. Used 23.50G of 15.75G hbm. Exceeded hbm capacity by 7.75G."
    )
    peak, usable = too_much(said)
    assert (peak, usable) == (23.5 * 2**30, 15.75 * 2**30)
    assert too_much("INTERNAL: something else") is None
    whole = dataclasses.asdict(COMPILED) | {"peak": 16 * 10**9 - 1, "usable": usable}
    kept = ("lower_s", "compile_s", "parameters", "optimizer", "batch", "usable")
    alone = {k: whole[k] for k in (*kept, "peak")}
    # More than the compiler may use, less than the maker's figure.
    report = report_of(CompiledStep(**alone | {"usable": 15 * 10**9}))
    assert report.verdict == "does not fit"
    assert "conditionals" not in report.as_text()


@pytest.mark.parametrize(
    ("code", "errors", "said"),
    [
        (
            *(1, "F1 libtpu_lockfile: Internal error when accessing libtpu multi-proc"),
            "Another process has the compiler .* unset ALLOW_MULTIPLE_LIBTPU_LOAD",
        ),
        (
            *(-signal.SIGABRT, "Check failed: x\n"),
            r"ended by SIGABRT for v5e:2x4 \(Check failed: x\)\. Slices of v5e .*16x16",
        ),
        (-signal.SIGKILL, "", "was killed: if this machine ran out of memory"),
        (
            *(1, "Traceback\n  File\nValueError: what is wrong\n  and more\n"),
            r"failed for v5e:2x4 \(ValueError: what is wrong\)",
        ),
        (2, "warning\nerror: mend it.\n", r"^mend it\.$"),
        (3, "", "failed for v5e:2x4"),
    ],
)
def test_a_child_that_ended_is_told_in_one_line(code, errors, said):
    text = reason(code, errors, SLICES)
    assert "\n" not in text
    assert re.search(said, text)
