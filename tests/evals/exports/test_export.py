"""`evaluate --export`: what other harnesses keep of predictions."""

import json

import pytest

from tests import own_flags
from tests.evals.benchmarks import made_up
from tests.evals.exports.answered_lines import lines
from tests.evals.exports.test_spreadsheet import read
from visor_jax import evaluate
from visor_jax.evals.answered.lines import file_of, write_lines
from visor_jax.evals.benchmarks.registry import BENCHMARKS
from visor_jax.evals.exports.vlmevalkit import FAILED
from visor_jax.evals.tables.table_benchmark import TableBenchmark

NAMES = ("chartqa", "mmbench", "pope", "mathvista")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Returns a folder with VLMEvalKit's tables."""
    folder = tmp_path_factory.mktemp("data")
    for name in NAMES:
        made_up.write_table(name, folder / f"{BENCHMARKS[name].tsv}.tsv")
    return folder


@pytest.fixture
def output(data, tmp_path):
    """Returns a folder of predictions: right, wrong, one error, some not asked."""
    for name in NAMES:
        benchmark = TableBenchmark.open(BENCHMARKS[name], data)
        said = [row.right for row in made_up.rows(name)][:18]
        said[1], said[3] = "something else", None
        # In the order of answering.
        write_lines(file_of(tmp_path, name), lines(benchmark, said)[::-1])
    return tmp_path


def exported(output, data, *extra):
    own_flags.call(evaluate, f"--output={output}", f"--data={data}", *extra)


def test_vlmevalkit_gets_its_own_columns_and_the_answers(output, data, capsys):
    exported(output, data, "--export=vlmevalkit", "--benchmarks=mmbench,chartqa")
    printed = capsys.readouterr().out.split()
    files = ("MMBench_DEV_EN", "ChartQA_TEST")
    assert printed == [str(output / f"visor_jax_{each}.xlsx") for each in files]
    names, *rows = read((output / "visor_jax_MMBench_DEV_EN.xlsx").read_bytes())
    made = made_up.rows("mmbench")
    others = [each for each in made[0].table if each != "index"]
    assert names == ["index", *others, "prediction"]
    assert len(rows) == 18
    for number, (row, question) in enumerate(zip(rows, made, strict=False)):
        found = dict(zip(names, row, strict=True))
        # Numbers, which VLMEvalKit reckons with.
        assert found.pop("index") == int(question.table["index"])
        said = {1: "something else", 3: FAILED}.get(number, question.right)
        assert found.pop("prediction") == said
        assert found == {k: v for k, v in question.table.items() if k != "index"}


def test_lmms_eval_gets_a_line_a_document(output, data):
    exported(output, data, "--export=lmms_eval,vlmevalkit")
    found = (output / "samples_chartqa.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in found]
    made = made_up.rows("chartqa")
    assert [each["doc_id"] for each in found] == list(range(18))
    assert found[2] == {
        "doc_id": 2,
        "target": "102",
        "filtered_resps": made[2].right,
        "token_counts": [{"input_tokens": 112, "output_tokens": 3}],
        "doc_hash": found[0]["doc_hash"],
        "relaxed_overall": 1.0,
        "relaxed_human_split": 1.0,
        "input": made[2].prompt,
        "score": 1.0,
    }
    assert (found[1]["relaxed_augmented_split"], found[1]["score"]) == (0.0, 0.0)
    assert (found[3]["filtered_resps"], found[3]["token_counts"]) == ("", [None])
    assert found[3]["score"] == 0.0
    pope = (output / "samples_pope.jsonl").read_text().splitlines()
    pope = json.loads(pope[0])["pope_f1_score"]
    assert (pope["prediction"], pope["ground_truth"], pope["score"]) == (
        "yes",
        "yes",
        1,
    )
    assert (output / "samples_mmbench_en_dev_static.jsonl").exists()
    assert (output / "visor_jax_MathVista_MINI.xlsx").exists()


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        own_flags.call(evaluate, *arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_mistakes_end_in_one_line_and_write_nothing(output, data, tmp_path, capsys):
    before = sorted(output.iterdir())
    out = f"--output={output}"
    assert "'xlsx'; known are lmms_eval" in refusal(
        capsys, out, f"--data={data}", "--export=vlmevalkit,xlsx"
    )
    assert "give --data" in refusal(capsys, out, "--export=lmms_eval")
    file = file_of(output, "pope")
    kept = file.read_text()
    file.write_text(kept.replace('"id": "100"', '"id": "elsewhere"'))
    for name in ("lmms_eval", "vlmevalkit"):
        said = refusal(capsys, out, f"--data={data}", f"--export={name}")
        assert "pope: 1 of 18 predictions are of no row" in said
        assert "'elsewhere'" in said
    file.write_text(kept)
    made_up.write_hub("pope", BENCHMARKS["pope"].source, tmp_path / "hub")
    said = refusal(
        capsys,
        *(out, f"--data={tmp_path / 'hub'}", "--export=vlmevalkit"),
        "--benchmarks=pope",
    )
    assert "put POPE.tsv into" in said
    assert sorted(each for each in output.iterdir() if each.name != "hub") == before
