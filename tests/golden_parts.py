"""The parts of the golden figures: small runs, and what is kept of them.

The code is reached through its commands, `visor_jax.load` and what that returns alone,
so that these figures outlive the modules that they check.
"""

import functools
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

import visor_jax
from tests import golden_inputs as inputs

ROOT = Path(__file__).parents[1]
STEPS = 10
LIMIT = {"max_new_tokens": 12}
BUDGETS = {"none": "none", "one": "sa1:3", "all": "all"}
PAGE_QUESTIONS = ("ring", "digit row 2 column 3", "largest digit row 1")

# In reports: when, where and how fast, which is no result.
_NOT_RESULTS = {
    *("git_commit", "machine", "command", "time", "timing", "checkpoint", "network"),
    *("wall_clock_s", "ms_per_sample"),
}
# Of .ci/run: what everybody sees of training.
_SHORTENED = (
    *("loop.steps=40", "optimizer.warmup_steps=5", "data.pages.pool_size=256"),
    *("tower.steps=20", "evaluation_pages=32"),
)
_POLICY = (
    *("loop.steps=20", "loop.log_every=1", "optimizer.warmup_steps=2"),
    *("data.batch_size=64", "data.pages.pool_size=16"),
    # As long as the rows that are evaluated, which then need no program of their own.
    *("data.pages.questions_per_page=10", "data.pages.text_length=64"),
    *("scores.batches=2", "scores.batch_size=32", "evaluation_pages=32"),
    # So little training tells no budget from another: costs alone would decide.
    *("budgets=('none','sa1:3','all')", "objective.cost_weight=0.0"),
)
_CONVERSATIONS = (
    *("seed=1", f"loop.steps={STEPS}", "loop.log_every=1", "budgets=('every',)"),
    *("optimizer.learning_rate=3e-3", "optimizer.warmup_steps=2"),
    *("data.batch_size=4", "data.workers=0", "data.text_lengths=(192,)"),
    *("data.max_images=3", "data.max_length=400", "platform=cpu"),
)


class Work:
    """The folder of one making, and what several figures begin with.

    beside: runs what takes longest while other figures are made.
    """

    def __init__(self, folder: Path, beside: Executor) -> None:
        self.folder, self.began = folder, time.monotonic()
        self._beside = beside
        self._universal: Future[Path] | None = None

    def say(self, line: str) -> None:
        """Prints a line of progress."""
        print(f"[{time.monotonic() - self.began:4.0f} s] {line}", flush=True)

    def command(self, module: str, *arguments: str) -> None:
        """Runs a command; what it prints is shown only if it fails."""
        shown = " ".join(arguments).replace(f"{self.folder}/", "")
        self.say(f"{module} {shown[:70]}")
        done = subprocess.run(
            [sys.executable, "-m", f"visor_jax.{module}", *arguments],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{done.stdout}\n{module} ended with {done.returncode}")

    def train(self, config: str, name: str, overrides: Sequence[str]) -> Path:
        """Returns the workdir of a training run."""
        flags = [f"--config.{override}" for override in overrides]
        workdir = self.folder / name
        self.command("train", f"--config={config}", f"--workdir={workdir}", *flags)
        return workdir

    def begin_universal(self) -> Future[Path]:
        """Returns what becomes of the shortened run."""
        if self._universal is None:
            run = ("configs/universal.py", "universal", _SHORTENED)
            self._universal = self._beside.submit(self.train, *run)
        return self._universal

    @property
    def universal(self) -> Path:
        return self.begin_universal().result()

    @functools.cached_property
    def imported(self) -> Path:
        """The tiny network of Hugging Face with new adapters."""
        source = inputs.write_network(self.folder / "network")
        out = self.folder / "imported"
        self.command(
            "convert",
            *(f"--from_hf={source}", f"--out={out}", "--plan=visor"),
            *(f"--cross_layers={inputs.CROSS}", f"--self_layers={inputs.SELF}"),
        )
        return out


def training(work: Work) -> dict[str, Any]:
    """Returns the figures of the shortened run of .ci/run."""
    report = json.loads((work.universal / "report/report.json").read_text())
    return {**of_run(work.universal), "report": results_of(report)}


def policy(work: Work) -> dict[str, Any]:
    """Returns the figures of a policy for that run, and what it chooses."""
    begin = f"init_from={work.universal}"
    workdir = work.train("configs/policy.py", "policy", (begin, *_POLICY))
    report = json.loads((workdir / "report/policy.json").read_text())
    work.say("the policy's choices")
    model = visor_jax.load(workdir)
    page = inputs.picture(96, 96)
    asked = [visor_jax.Request(question, page) for question in PAGE_QUESTIONS]
    costs = {"as trained": 0.0, "cheaper": 2.0, "dearer": -2.0}
    return {
        **of_run(workdir),
        "report": results_of(report),
        "choices": {
            name: [budget.name for budget in model.choose(asked, cost=cost)]
            for name, cost in costs.items()
        },
        "answers": written_by(model.engine("auto"), asked),
    }


def conversations(work: Work) -> dict[str, Any]:
    """Returns the figures of training the imported network on converted data."""
    source = inputs.write_conversations(work.folder / "pictures")
    data = work.folder / "converted"
    # The command's name of tomorrow, and of yesterday.
    moved = (ROOT / "visor_jax/convert/data.py").exists()
    work.command(
        "convert.data" if moved else "convert_data",
        *(f"--sources={source}", f"--images={source.parent}", f"--out={data}"),
        *("--rows_per_shard=10", "--processes=1"),
    )
    config = f"tests/golden_config.py:{work.imported}"
    overrides = (f"data.path={data}", *_CONVERSATIONS)
    workdir = work.train(config, "conversations", overrides)
    figures = of_run(workdir)
    losses = [repr(line["loss"]) for line in figures["metrics"]]
    return {**figures, "losses": losses}


def answers(work: Work) -> dict[str, Any]:
    """Returns tokens, texts and logits of the network with adapters filled in."""
    folder = work.folder / "exported"
    work.command("convert", f"--checkpoint={work.imported}", f"--to_hf={folder}")
    model = visor_jax.load(inputs.fill_adapters(folder))
    figures: dict[str, Any] = {"fingerprint": model.fingerprint}
    first = prompts()[0]
    for name, budget in BUDGETS.items():
        work.say(f"answers: {name}, greedy")
        figures[name] = {
            "logits": digest(logits(model, first, budget)),
            "greedy": answers_of(model, budget),
        }
    work.say("answers: one, sampled")
    sampling = visor_jax.Sampling(
        temperature=0.9, top_k=40, top_p=0.95, repetition_penalty=1.1
    )
    drawn = {"sampling": sampling, "key": jax.random.key(7)}
    figures["one"]["sampled"] = answers_of(model, BUDGETS["one"], **drawn)
    work.say("answers: all, several prompts at once")
    figures["all"]["together"] = model.generate_all(prompts(), "all", **LIMIT)
    work.say("logits in bfloat16")
    half = visor_jax.load(folder, dtype="bfloat16")
    figures["logits in bfloat16"] = digest(logits(half, first, "all"))
    return figures


def prompts() -> list[Any]:
    """Returns two about one picture, one about two, one about none."""
    wide, tall = inputs.picture(30, 60, 1), inputs.picture(50, 26, 2)
    asked = [("Why?", [wide]), ("And in words: what is it, or who?", [wide])]
    asked += [("Which?", [wide, tall]), ("Hm", None)]
    return [visor_jax.Request(text, images) for text, images in asked]


def logits(model: Any, prompt: Any, budget: str) -> np.ndarray:
    """Returns what may follow each of the prompt's text tokens."""
    return model.logits(prompt.images, prompt.prompt, budget)


def answers_of(model: Any, budget: str, **options: Any) -> dict[str, Any]:
    """Returns the first prompt's answer, whole and in pieces, and the engine's two."""
    first, second = prompts()[:2]
    asked = (first.images, first.prompt, budget)
    engine = model.engine(budget, **options)
    return {
        "generate": model.generate(*asked, **LIMIT, **options),
        "stream": list(model.stream(*asked, **LIMIT, **options)),
        "engine": written_by(engine, [first, second], **LIMIT),
    }


def written_by(engine: Any, asked: Sequence[Any], **limit: int) -> list[dict[str, Any]]:
    """Returns the engine's answers: tokens too, of which texts leave out special ones.

    Raises RuntimeError if a prompt was refused.
    """
    answered = engine.answer_all(asked, **limit)
    errors = [answer.error for answer in answered if answer.error is not None]
    if errors:
        raise RuntimeError(f"The engine refuses what it used to answer: {errors}")
    return [
        {
            "text": answer.text,
            "tokens": " ".join(str(int(token)) for token in answer.tokens),
            "budget": answer.budget.name,
        }
        for answer in answered
    ]


# In the order in which they are made: the run that the last two need goes on meanwhile.
PARTS: dict[str, Callable[[Work], dict[str, Any]]] = {
    each.__name__: each for each in (conversations, answers, training, policy)
}


def figures_of(parts: Sequence[str], folder: Path) -> dict[str, Any]:
    """Returns {part: its figures}, made in an empty folder."""
    with ThreadPoolExecutor(1) as beside:
        work = Work(folder, beside)
        work.say(f"working in {folder}")
        if not {"training", "policy"}.isdisjoint(parts):
            work.begin_universal()
        figures = {part: PARTS[part](work) for part in PARTS if part in parts}
        work.say(f"made {', '.join(figures)}")
    return figures


def of_run(workdir: Path) -> dict[str, Any]:
    """Returns the parameters of a run as digests, and every line of its metrics."""
    model, lines = visor_jax.load(workdir), (workdir / "metrics.jsonl").read_text()
    parameters = [model.params, () if model.policy is None else model.policy.params]
    return {
        # The package's, of sizes too, and one that only numbers and their names change.
        "fingerprint": model.fingerprint,
        "parameters": digest(parameters),
        "metrics": [json.loads(line) for line in lines.splitlines()],
    }


def digest(tree: Any) -> str:
    """Returns a digest of all arrays and of what they are called."""
    found = hashlib.sha256()
    named = [(jax.tree_util.keystr(p), x) for p, x in jax.tree.leaves_with_path(tree)]
    for name, leaf in sorted(named, key=lambda each: each[0]):
        values = np.asarray(leaf)
        found.update(f"{name} {values.dtype} {values.shape}".encode())
        found.update(values.tobytes())
    return found.hexdigest()[:32]


def results_of(value: Any) -> Any:
    """Returns what a report says without times, places and versions."""
    if isinstance(value, dict):
        return {k: results_of(v) for k, v in value.items() if k not in _NOT_RESULTS}
    return list(map(results_of, value)) if isinstance(value, list) else value
