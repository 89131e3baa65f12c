"""`python -m visor_jax.answer`: a file of requests, resumed, stopped, with errors."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from absl import flags
from PIL import Image

import visor_jax
from tests.inference import page_run
from visor_jax import answer
from visor_jax.commands import answer_flags
from visor_jax.inference.files.picture_files import digest_of

ROOT = Path(__file__).parents[1]
QUESTIONS = ("largest digit row 1", "digit row 2 column 3", "digit row 1 column 1")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    for seed in (0, 1):
        Image.fromarray(page_run.page(seed)).save(folder / f"page{seed}.png")
    return page_run.save(folder, page_run.parameters())


def _write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _requests(count):
    return [
        {
            "id": f"q{i}",
            "image": f"page{i % 2}.png",
            "prompt": QUESTIONS[i % len(QUESTIONS)],
        }
        for i in range(count)
    ]


def _command(workdir, *extra, name="answers.jsonl", source="requests.jsonl"):
    return [
        *(sys.executable, "-m", "visor_jax.answer", f"--checkpoint={workdir}"),
        *(f"--input={workdir / source}", f"--output={workdir / name}", *extra),
    ]


def _run(command):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment
    )


def _records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_and_errors_and_what_is_left_of_a_stopped_run(workdir):
    bad = {"id": "bad", "image": "gone.png", "prompt": QUESTIONS[0]}
    unknown = {"id": "words", "image": "page0.png", "prompt": "why is this"}
    requests = [*_requests(5), bad, unknown, {"id": "empty"}]
    _write(workdir / "requests.jsonl", requests)
    out = workdir / "answers.jsonl"
    done = _run(_command(workdir, "--budget=sa1:1"))
    assert (done.returncode, done.stdout) == (0, "")
    assert "8 requests, 3 errors; this run: 8" in done.stderr
    assert "sa1:1 5" in done.stderr
    records = {record["id"]: record for record in _records(out)}
    assert set(records) == {request["id"] for request in requests}
    assert "no such file" in records["bad"]["error"]
    assert "why" in records["words"]["error"]
    assert "prompt None" in records["empty"]["error"]
    model = visor_jax.load(workdir)
    for request in requests[:5]:
        record = records[request["id"]]
        image = workdir / request["image"]
        assert record["answer"] == model.generate(image, request["prompt"], "sa1:1")
        assert record["budget"] == "sa1:1"
        assert record["ms"] > 0
        assert record["flops"]["llm_prefill"] > 0
        assert record["images"] == digest_of([str(image)])
        paid = record["flops"]["tower"] > 0
        assert paid is not record["image_reused"]
    assert sum(not records[f"q{i}"]["image_reused"] for i in range(5)) == 2
    # As a run leaves it that was killed while it wrote; an image came meanwhile.
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    last = json.loads(lines[-1])["id"]
    Image.fromarray(page_run.page(1)).save(workdir / "gone.png")
    again = _run(_command(workdir, "--budget=sa1:1", "--retry_errors"))
    (workdir / "gone.png").unlink()
    assert again.returncode == 0
    errors = {"bad", "words", "empty"} | {last}
    assert f"{8 - len(errors)} of 8 requests were answered before" in again.stderr
    found = {record["id"]: record for record in _records(out)}
    assert set(found) == set(records)
    assert len(_records(out)) == 8
    assert "error" not in found["bad"]
    for name in ("q0", "q1", "q2", "q3", "q4"):
        assert found[name]["answer"] == records[name]["answer"]


def test_lines_say_how_they_are_answered(workdir):
    """...and an old file, whose lines say nothing, goes on with them."""
    plain = _requests(2)
    said = [
        {"budget": "none"},
        {"max_new_tokens": 1},
        {"sampling": {"temperature": 3.0}, "seed": 5},
        {"budget": "auto"},
        {"sampling": {"temperature": 3}, "max_new_tokens": 12},
        {"heat": 1},
    ]
    lines = [{**plain[0], "id": f"s{i}", **each} for i, each in enumerate(said)]
    lines[2]["stop"] = ["no such word"]
    _write(workdir / "saying.jsonl", plain)
    command = _command(workdir, source="saying.jsonl", name="said.jsonl")
    assert _run([*command, "--rows=1"]).returncode == 0
    settings = json.loads((workdir / "said.jsonl.settings.json").read_text())
    assert "stop" not in settings
    assert (settings["seed"], settings["max_new_tokens"]) == (None, 8)
    # A line that draws with the common key makes the answers depend on it.
    _write(workdir / "saying.jsonl", plain + lines)
    refused = _run([*command, "--rows=1"])
    assert refused.returncode == 2
    assert "seed was null, now 0" in refused.stderr
    del lines[4]
    _write(workdir / "saying.jsonl", plain + lines)
    assert _run([*command, "--rows=1"]).returncode == 0
    records = {each["id"]: each for each in _records(workdir / "said.jsonl")}
    model = visor_jax.load(workdir)
    asked = (workdir / plain[0]["image"], plain[0]["prompt"])
    assert records["s0"]["answer"] == model.generate(*asked, "none")
    assert records["s0"]["budget"] == "sa0"
    assert records["s1"]["answer"] == model.generate(*asked, max_new_tokens=1)
    drawn = model.generate(
        *asked,
        sampling=visor_jax.Sampling(temperature=3.0),
        key=jax.random.key(5),
    )
    assert records["s2"]["answer"] == drawn != records["q0"]["answer"]
    assert "policy" in records["s3"]["error"]
    assert "unknown fields ['heat']" in records["s5"]["error"]
    pieces = list(model.stream(*asked, stop=[drawn.split()[0], " "]))
    whole = model.generate(*asked)
    assert "".join(pieces) == whole.split(" ")[0]
    options = visor_jax.AnswerOptions(stop=" ", max_new_tokens=4, budget="none")
    request = visor_jax.Request(asked[1], [asked[0]], options=options)
    (found,) = model.generate_all([request])
    assert found == model.generate(*asked, "none").split(" ")[0]


def test_ctrl_c_loses_no_answer_and_says_how_to_go_on(workdir):
    count = 4000
    _write(workdir / "many.jsonl", _requests(count))
    out = workdir / "stopped.jsonl"
    command = _command(workdir, source="many.jsonl", name="stopped.jsonl")
    running = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    try:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and not (out.exists() and out.stat().st_size):
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=600)
    finally:
        running.kill()
    assert running.returncode == 130
    answered = len(_records(out))
    assert 0 < answered < count
    assert f"interrupted: {answered} of {count} answers are in" in stderr
    assert "the same command goes on" in stderr
    assert "Traceback" not in stderr


def test_of_two_processes_on_one_output_one_answers(workdir):
    """Before, both wrote all of their answers into the file."""
    count = 2000
    _write(workdir / "both.jsonl", _requests(count))
    out = workdir / "both_answers.jsonl"
    command = _command(workdir, source="both.jsonl", name=out.name)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    first = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and not (out.exists() and out.stat().st_size):
            time.sleep(0.02)
        # However long it takes, the file is its own.
        first.send_signal(signal.SIGSTOP)
        second = _run(command)
        assert second.returncode == 2
        (line,) = second.stderr.splitlines()
        assert line.startswith(f"error: {out} is being written by another process")
        assert f"pid {first.pid}, since" in line
        assert "visor_jax.answer" in line
    finally:
        first.kill()
        first.wait()
    # Killed, it leaves its answers and nothing that would be in the way.
    third = _run(command)
    assert third.returncode == 0
    assert "requests were answered before" in third.stderr
    assert len(_records(out)) == len({r["id"] for r in _records(out)}) == count


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_is_as_one_that_was_not(workdir):
    """...with random draws, which depend on the request alone."""
    count, kills = 3000, 0
    _write(workdir / "killed.jsonl", _requests(count))
    cache = f"--compilation_cache={workdir / 'cache'}"
    extra = ("--temperature=1", "--seed=3", "--max_new_tokens=4", cache)
    whole, out = workdir / "whole.jsonl", workdir / "parts.jsonl"
    command = _command(workdir, *extra, source="killed.jsonl", name=whole.name)
    assert _run(command).returncode == 0
    command = _command(workdir, *extra, source="killed.jsonl", name=out.name)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    while True:
        before = out.stat().st_size if out.exists() else 0
        running = subprocess.Popen(command, cwd=ROOT, env=environment)
        while running.poll() is None:
            grown = out.stat().st_size - before if out.exists() else 0
            if kills < 3 and grown > whole.stat().st_size / 6:
                running.kill()
                kills += 1
                break
            time.sleep(0.01)
        if running.wait() == 0:
            break
    assert kills == 3

    def answers(path):
        return {record["id"]: record["answer"] for record in _records(path)}

    assert answers(out) == answers(whole)
    assert len(_records(out)) == len(answers(out)) == count
    assert len(set(answers(out).values())) > 1


def test_a_fingerprint_is_of_every_number(workdir):
    model = visor_jax.load(workdir)
    known = {model.fingerprint}
    assert visor_jax.load(workdir).fingerprint in known
    flat, tree = jax.tree.flatten(model.params)
    for place in (0, len(flat) // 2, len(flat) - 1):
        changed = list(flat)
        changed[place] = changed[place].at[(-1,) * changed[place].ndim].add(1e-3)
        params = jax.tree.unflatten(tree, changed)
        known.add(dataclasses.replace(model.network, params=params).fingerprint)
    assert len(known) == 4


@pytest.fixture
def parse():
    """Gives the flags as the program declares them, to this process for one test."""
    before = set(flags.FLAGS)
    answer.define_flags()
    yield lambda arguments: flags.FLAGS(["answer", *arguments])
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--input=gone.jsonl"], "gone.jsonl: No such file"),
        (["--budget=sa1:2"], "sa1:2"),
        (["--rows=3"], "rows=3 is no power of two"),
        (["--output=visor_jax"], "is a folder, not a file"),
        (["--output=README.md"], "README.md is not empty, and README.md.settings"),
        (["--top_k=3"], "top_k and top_p need a temperature above 0"),
        (["--warm_up", "--crops=7"], "No bucket has crops [7]"),
        (["--memory_gb=1e-6"], "allow "),
        (["--memory_gb=nan"], "NaN"),
    ],
)
def test_mistakes_end_before_any_work(
    workdir, parse, capsys, monkeypatch, extra, message
):
    monkeypatch.chdir(ROOT)
    _write(workdir / "requests.jsonl", _requests(1))
    command = _command(workdir, *extra, name="mistake.jsonl")
    with pytest.raises(SystemExit) as stopped:
        answer.main(parse(command[3:]))
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (workdir / "mistake.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input=a"], "--input and --output belong together"),
        (["--input=a", "--output=./a"], "--output=a is the input itself"),
        ([], "Nothing to do"),
    ],
)
def test_what_belongs_together(parse, capsys, arguments, message):
    with pytest.raises(SystemExit):
        answer.main(parse(["--checkpoint=gone", *arguments]))
    assert message in capsys.readouterr().err


def test_settings_are_what_answers_depend_on(workdir, parse):
    """...so that a run with any other of them does not go on in the same file."""

    def settings(*changed):
        command = _command(workdir, "--temperature=1", *changed)
        parse(command[3:])
        options = flags.FLAGS
        sampling = answer_flags.sampling_of(options)
        model = answer_flags.load_network(options)
        engine = answer._engine(model, [], options, sampling)
        found = answer._settings(model, engine, [], options, sampling)
        flags.FLAGS.unparse_flags()
        return found

    plain = settings()
    assert settings("--rows=4", "--slots=8", "--max_new_tokens=8") == plain
    for name, flag in {
        "budgets": "--budget=none",
        "max_new_tokens": "--max_new_tokens=9",
        "temperature": "--temperature=2",
        "top_k": "--top_k=3",
        "top_p": "--top_p=0.5",
        "repetition_penalty": "--repetition_penalty=1.5",
        "seed": "--seed=1",
        "checkpoint": "--dtype=bfloat16",
    }.items():
        found = settings(flag)
        assert [key for key in plain if found[key] != plain[key]] == [name]


def test_programs_are_compiled_ahead_and_kept(workdir, tmp_path):
    command = [
        *(sys.executable, "-m", "visor_jax.answer", f"--checkpoint={workdir}"),
        *("--warm_up", "--text_tokens=8", "--rows=1", "--slots=1", "--budget=none"),
        f"--compilation_cache={tmp_path}/cache",
    ]
    done = _run(command)
    assert (done.returncode, done.stdout) == (0, "")
    started, *lines = done.stderr.splitlines()
    assert "attention auto" in started
    # Encoding 1, 2, 4 or 8 images; one size of each other program.
    assert lines[0].startswith("program 1 of 8: encode 1x144 1")
    assert lines[-1].startswith("compiled 8 programs in")
    kept = {path.name for path in (tmp_path / "cache").iterdir()}
    assert len(kept) >= 8
    assert _run(command).returncode == 0
    assert {path.name for path in (tmp_path / "cache").iterdir()} - kept == set()
