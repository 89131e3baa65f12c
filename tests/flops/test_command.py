"""`python -m visor_jax.flops`: its tables, its JSON and its errors."""

import json
import subprocess
import sys

import pytest

from tests import own_flags
from visor_jax.budget import Budget
from visor_jax.flops import __main__ as command
from visor_jax.flops.__main__ import known_crops
from visor_jax.flops.account import account, savings
from visor_jax.flops.table import COLUMNS
from visor_jax.models.variants import llava_ov_0p5b, mini


def test_table_has_a_row_per_budget_and_dense_and_says_what_it_counts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    own_flags.call(command, "--variant=mini")
    printed = capsys.readouterr().out
    assert "1 multiply-add = 2 FLOPs" in printed
    assert "Not counted: other elementwise" in printed
    lines = printed.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("budget"))
    assert all(column in lines[start] for column in COLUMNS)
    rows = [line.split()[0] for line in lines[start + 1 :]]
    assert rows == ["sa0", "sa1:3", "sa2:1,5", "sa3:1,3,5", "dense"]
    assert len({len(line) for line in lines[start:]}) == 1


def test_json_holds_the_accounts_figures(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--budgets=sa1:3", "--logit_positions=all", "--json")
    own_flags.call(command, "--variant=mini", *arguments)
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    measured = account(mini(), Budget((3,)), text_tokens=100, image_tokens=144, crops=1)
    row = table["rows"][0]
    assert row["llm_prefill"] == measured.llm_prefill
    assert row["decode_per_token"] == measured.decode_per_token(101)
    assert row["end_to_end_saving"] == savings(measured).end_to_end_saving
    assert table["rows"][1]["budget"] == "dense"


def test_a_convolution_is_the_projectors_and_dense_has_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = {}
    for side in (None, 0, 3):
        arguments = () if side is None else (f"--projector_convolution={side}",)
        own_flags.call(command, "--variant=mini", "--json", *arguments)
        (table,) = json.loads(capsys.readouterr().out)["tables"]
        rows[side] = {row["budget"]: row for row in table["rows"]}
    # 144 patches, 3 x 3 around each, 64 numbers made of 64.
    more = 2 * 144 * 9 * 64 * 64
    assert rows[3]["sa0"]["projector"] == rows[None]["sa0"]["projector"] + more
    assert rows[3]["dense"] == rows[None]["dense"]
    assert rows[0] == rows[None]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--projector_convolution=2", "projector_convolution=2 must be odd"),
        ("--variant=huge", "Unknown variant 'huge'"),
        ("--budgets=sa1:4", "switches on layers"),
        ("--budgets=many", "Unknown budget 'many'"),
        ("--budgets=4", "does not fit"),
        ("--text_tokens=-5", "'-5' is no whole number from 1 on"),
        ("--text_tokens=0", "from 1 on"),
        ("--image_tokens=1,,2", "'' is no whole number"),
        ("--image_tokens=100", "say how many with --crops"),
        ("--image_tokens=144 --crops=1,2", "2 numbers for 1 image"),
        ("--logit_positions=101", "exceeds text_tokens=100"),
    ],
)
def test_bad_values_end_with_one_line_and_code_2(
    arguments: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        own_flags.call(command, "--variant=mini", *arguments.split())
    assert exit_.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert complaint in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "printed"),
    [
        (("--help",), 0, "--logit_positions"),
        (("--variant=mini", "--budgets=none"), 0, "sa0"),
        (("--colour=red",), 2, "error: Unknown command line flag 'colour'"),
        (("--budgets=4", "--variant=mini"), 2, "error: A budget of 4 SELF layers"),
    ],
)
def test_the_module_is_a_command(
    arguments: tuple[str, ...], code: int, printed: str
) -> None:
    started = [sys.executable, "-m", "visor_jax.flops", *arguments]
    done = subprocess.run(started, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert printed in (done.stderr if code else done.stdout)
    assert (done.stdout == "") == (code == 2)
    assert done.stderr.count("\n") == (code == 2)


def test_crops_of_known_pictures() -> None:
    vision = llava_ov_0p5b().vision
    sizes = (729, 1485, 2929, 7353, 7290, 0)
    assert [known_crops(n, vision) for n in sizes] == [1, 2, 5, 31, 10, 0]


def test_nothing_of_jax_is_loaded() -> None:
    code = (
        "import sys; from absl import flags; from visor_jax.flops import __main__ as m;"
        "m.define_flags(); m.main(flags.FLAGS(['flops', '--budgets=none,1,all']));"
        "sys.exit('jax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
