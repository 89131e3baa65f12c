"""`python -m visor_jax.evaluate --benchmarks`: a tiny network, stops, mistakes."""

import base64
import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from tests import own_flags
from tests.data.prompts import prompt_cases
from tests.evals.benchmarks import made_up
from tests.inference import chat_run
from visor_jax import evaluate
from visor_jax.evals.benchmarks.registry import BENCHMARKS
from visor_jax.inference.loading import load
from visor_jax.runtime.interruption import Interruption

ROOT = Path(__file__).parents[1]
NAMES = ("gqa", "chartqa")
LIMIT = 4
# The rows of the middle pictures of both halves.
ASKED = (2, 7, 12, 17)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Programs here run once: optimising them takes longer than it saves."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Returns the folder of a network that cuts pictures into few crops.

    It is read once, however often it is named.
    """
    tile = prompt_cases.TILES[0]
    folder = chat_run.save(tmp_path_factory.mktemp("net"), tile)
    for file in map(folder.joinpath, ("config.json", "preprocessor_config.json")):
        fields = json.loads(file.read_text())
        fields["image_grid_pinpoints"] = [[tile, tile]]
        file.write_text(json.dumps(fields))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "load", functools.cache(load.load))
        yield folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Returns a folder with tables, one of whose pictures is none."""
    folder = tmp_path_factory.mktemp("data")
    for name in NAMES:
        made_up.write_table(name, folder / f"{BENCHMARKS[name].tsv}.tsv")
    file = folder / f"{BENCHMARKS['gqa'].tsv}.tsv"
    good = base64.b64encode(made_up.picture(2)).decode()
    broken = base64.b64encode(b"no picture" * 10).decode()
    file.write_text(file.read_text().replace(good, broken))
    return folder


def flags_of(network, data, output, *extra, names=NAMES):
    return [
        *(f"--checkpoint={network}", f"--benchmarks={','.join(names)}"),
        *(f"--data={data}", f"--output={output}", f"--limit={LIMIT}"),
        *("--budget=all", "--rows=2", "--slots=8", "--chat_template=hub", *extra),
    ]


@pytest.fixture(scope="module")
def predictions(network, data, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "predictions"
    own_flags.call(evaluate, *flags_of(network, data, output))
    return output


def read(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").open()]


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        own_flags.call(evaluate, *arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_every_question_is_a_line_with_its_answer_and_cost(network, predictions):
    model = load.load(str(network), dtype=None, chat_template="hub")
    for name in NAMES:
        found = {line["id"]: line for line in read(predictions, name)}
        rows = made_up.rows(name)
        assert sorted(found) == [str(100 + n) for n in ASKED]
        for number in ASKED:
            line = found[str(100 + number)]
            assert line["prompt"] == rows[number].prompt
            if name == "gqa" and number in (2, 12):
                assert line["answer"] is None
                assert "image" in line["error"]
                assert line["score"] == 0.0
                continue
            assert line["error"] is None
            image = made_up.picture(made_up.picture_of(number))
            expected = model.generate(image, line["prompt"], "all", max_new_tokens=16)
            assert line["answer"] == expected
            assert line["used"] == line["budget"]
            assert line["flops"]["llm_prefill"] > 0
            assert line["flops"]["selection"] == 0
            assert line["image_tokens_mean"] == line["image_tokens"] > 0
            assert line["stopped"] in ("end", "limit")
            assert (line["stopped"] == "limit") is (line["new_tokens"] == 16)
    settings = json.loads((predictions / "gqa.settings.json").read_text())
    assert settings["checkpoint"] == model.fingerprint
    assert (settings["limit"], settings["questions"]) == (LIMIT, LIMIT)
    scores = json.loads((predictions / "scores.json").read_text())
    assert list(scores) == list(NAMES)
    assert (scores["gqa"]["answered"], scores["gqa"]["errors"]) == (LIMIT, 2)
    said = "gqa: 4 of 20 questions: --limit=4 took whole groups, spread evenly"
    assert scores["gqa"]["limited"] == said
    assert scores["gqa"]["figures"][0]["n"] == LIMIT


def test_a_look_at_the_base_view_is_one_everywhere(network, data, tmp_path, capsys):
    arguments = flags_of(network, data, tmp_path, "--look=base", names=["chartqa"])
    own_flags.call(evaluate, *arguments)
    model = load.load(str(network), dtype=None, chat_template="hub")
    whole = model.batch([made_up.picture(0)], "Why?").image_mask.sum()
    for line in read(tmp_path, "chartqa"):
        image = made_up.picture(made_up.picture_of(int(line["id"]) - 100))
        how = {"max_new_tokens": 16, "crops": "base"}
        assert line["answer"] == model.generate(image, line["prompt"], "all", **how)
        assert line["looked_at"]["crops"] == [0]
        assert 0 < line["image_tokens"] < whole
    settings = json.loads((tmp_path / "chartqa.settings.json").read_text())
    assert settings["look"] == "base"
    for other in ([], ["--look=all"]):
        changed = flags_of(network, data, tmp_path, *other, names=["chartqa"])
        assert 'look was "base"' in refusal(capsys, *changed)


def test_looking_twice_ends_as_all_crops_where_it_is_never_sure(
    network, data, tmp_path
):
    arguments = flags_of(network, data, tmp_path, "--look=auto@1", names=["chartqa"])
    own_flags.call(evaluate, *arguments)
    model = load.load(str(network), dtype=None, chat_template="hub")
    for line in read(tmp_path, "chartqa"):
        image = made_up.picture(made_up.picture_of(int(line["id"]) - 100))
        how = {"max_new_tokens": 16, "crops": "all"}
        assert line["answer"] == model.generate(image, line["prompt"], "all", **how)
        seen = line["looked_at"]
        assert seen["asked"] == "auto@1.0"
        assert seen["crops"] == list(range(seen["of"]))
        assert (seen["of"] > 1) is ("first_look" in line)
        assert 0 < line["confidence"] < 1
    settings = json.loads((tmp_path / "chartqa.settings.json").read_text())
    assert settings["look"] == "auto@1.0"


def test_a_stopped_run_goes_on_and_others_are_refused(
    network, data, predictions, capsys, monkeypatch
):
    file = predictions / "chartqa.jsonl"
    whole = file.read_bytes()
    kept = whole.splitlines(keepends=True)
    file.write_bytes(b"".join(kept[:3]) + kept[3][:40])
    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "requested", True)
        with pytest.raises(SystemExit) as stopped:
            own_flags.call(evaluate, *flags_of(network, data, predictions))
    assert stopped.value.code == 130
    assert "interrupted: the same command goes on" in capsys.readouterr().err
    assert len(read(predictions, "chartqa")) == 3
    own_flags.call(evaluate, *flags_of(network, data, predictions))
    said = capsys.readouterr()
    assert "chartqa: 3 of 4 questions were answered before" in said.err
    assert "gqa: 4 of 4" in said.err
    assert "4/4" in said.out
    for told in (said.err, said.out):
        assert "chartqa: 4 of 20 questions: --limit=4 took whole groups" in told

    def answers(content):
        lines = map(json.loads, content.splitlines())
        return {line["id"]: (line["answer"], line["score"]) for line in lines}

    assert file.read_bytes().splitlines()[:3] == [line.strip() for line in kept[:3]]
    assert answers(file.read_bytes()) == answers(whole)
    arguments = [*flags_of(network, data, predictions), "--limit=3"]
    assert f"limit was {LIMIT}, now 3" in refusal(capsys, *arguments)
    assert answers(file.read_bytes()) == answers(whole)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_runs_that_are_hit_at_any_moment_end_like_one_that_was_not(
    network, data, predictions, tmp_path, name
):
    output = tmp_path / "predictions"
    # The budget again, as all of these are: what is asked must be the same.
    flags = flags_of(network, data, output)

    def lines():
        files = (output / f"{each}.jsonl" for each in NAMES)
        return [f.read_bytes().count(b"\n") if f.exists() else 0 for f in files]

    killed = name == "SIGKILL"
    for moment, answered in (
        ("loading", [0, 0]),
        # What ends the run at once leaves what was whole, Ctrl-C also what was begun.
        ("answering", [2, 0] if killed else [LIMIT, 0]),
        ("between", [LIMIT, 0]),
    ):
        ended = _hit(moment, name, *flags)
        assert ended.returncode == (-signal.SIGKILL if killed else 130), ended.stderr
        if not killed:
            assert "interrupted" in ended.stderr.splitlines()[-1]
        assert lines() == answered
    own_flags.call(evaluate, *flags)
    for each in NAMES:
        assert _said(read(output, each)) == _said(read(predictions, each))
    scores = [
        json.loads((folder / "scores.json").read_text())
        for folder in (output, predictions)
    ]
    assert scores[0] == scores[1]


def _hit(moment, name, *flags):
    """Returns how a run of its own ended that was hit by a signal at a moment."""
    return subprocess.run(
        [sys.executable, "-m", "tests.evals.stopped_run", moment, name, *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )


def _said(lines):
    """Returns lines by id, without what going on changes: work that was done again."""
    changed = ("seconds", "flops")
    return {
        line["id"]: {key: line[key] for key in line if key not in changed}
        for line in lines
    }


def test_other_data_budgets_prompts_and_pictures_are_refused(
    network, data, predictions, tmp_path, capsys
):
    arguments = flags_of(network, data, predictions)
    before = {each: (predictions / f"{each}.jsonl").read_bytes() for each in NAMES}
    # As of a run that asked another budget: this network has one only.
    file = predictions / "chartqa.settings.json"
    settings = file.read_text()
    file.write_text(json.dumps({**json.loads(settings), "budget": "sa0"}))
    assert 'budget was "sa0", now "sa3:0,1,2"' in refusal(capsys, *arguments)
    file.write_text(settings)
    template = [*arguments, "--chat_template=qwen_1_5"]
    assert 'chat_template was "hub"' in refusal(capsys, *template)
    table = f"{BENCHMARKS['gqa'].tsv}.tsv"
    row = made_up.rows("gqa")[7].table
    first = base64.b64encode(made_up.picture(7)).decode()
    # No other row has it: pictures make groups, and groups what a limit takes.
    other = base64.b64encode(made_up.picture(77)).decode()
    for old, new, why in (
        (row["answer"], "another", "data_digest was"),
        (row["question"], "Another?", "data_digest was"),
        (first, other, "answers another request of id '107'"),
    ):
        folder = tmp_path / new[:8]
        folder.mkdir()
        for each in NAMES:
            file = f"{BENCHMARKS[each].tsv}.tsv"
            (folder / file).write_text((data / file).read_text())
        text = (data / table).read_text()
        (folder / table).write_text(text.replace(f'"{old}"', f'"{new}"'))
        assert (folder / table).read_text() != text
        assert why in refusal(capsys, *flags_of(network, folder, predictions))
    assert before == {
        each: (predictions / f"{each}.jsonl").read_bytes() for each in NAMES
    }


def test_scores_are_made_again_without_network_and_data(predictions, monkeypatch):
    monkeypatch.setattr(load, "load", None)
    file = predictions / "chartqa.jsonl"
    before = file.read_bytes()
    lines = [json.loads(line) for line in before.splitlines()]
    lines[0]["answer"] = lines[0]["references"][0]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    own_flags.call(evaluate, "--rescore", f"--output={predictions}")
    again = read(predictions, "chartqa")
    assert (again[0]["score"], again[0]["parsed"]) == (1.0, lines[0]["references"][0])
    assert [line["score"] for line in again[1:]] == [
        each["score"] for each in lines[1:]
    ]
    scores = json.loads((predictions / "scores.json").read_text())
    rightly = sum(line["score"] for line in again) / LIMIT
    assert scores["chartqa"]["figures"][0]["value"] == pytest.approx(rightly)
    file.write_bytes(before)


def test_mistakes_end_in_one_line(network, data, tmp_path, capsys):
    arguments = flags_of(network, data, tmp_path / "out")
    for extra, why in (
        (["--benchmarks=docvqa"], "lmms-lab-encoder/DocVQA"),
        (["--benchmarks=docvqua"], "known are docvqa"),
        (["--benchmarks=gqa,gqa"], "gqa more than once"),
        (["--checkpoint=a,b"], "give one checkpoint"),
        (["--budget=sa9"], "sa9"),
        (["--cost=1,2"], "take one number"),
        (["--look=bse"], "Unknown crops 'bse'"),
        (["--pages=3"], "--pages are not for --benchmarks"),
        ([f"--output={data / 'GQA_TestDev_Balanced.tsv'}"], "is a file, not a folder"),
    ):
        assert why in refusal(capsys, *arguments, *extra)
    assert "give both" in refusal(capsys, f"--checkpoint={network}", "--limit=3")
    assert "--data" in refusal(capsys, "--benchmarks=gqa", "--output=x")
    assert "--checkpoint is missing" in refusal(capsys, "--pages=3")
    assert "no predictions" in refusal(capsys, "--rescore", f"--output={tmp_path}")
    assert not (tmp_path / "out").exists()


def test_the_list_says_what_every_benchmark_needs(capsys):
    own_flags.call(evaluate, "--list_benchmarks")
    printed = capsys.readouterr().out
    for name, each in BENCHMARKS.items():
        assert f"{name}: {each.count} questions" in printed
        assert each.source.ids[0] in printed
