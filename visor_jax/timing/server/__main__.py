"""Times a server beside `answer`, and looks for what many clients at once leave behind.

    python -m visor_jax.timing.server --checkpoint=runs/universal --requests=2000

The same questions about pages, in several budgets, are answered by `answer`, by a
server whose clients all behave, and by the server once more with clients that go away,
send nonsense and read slowly. Every answer must be that of `answer`. Then the server is
told to end (SIGTERM) while it streams. Prints requests a second, the time to the first
token, and what the server holds before and afterwards; anything that is wrong is told,
and the exit code is 1. Clients run on the same machine and take their share of it.
"""

from absl import flags

from visor_jax.commands import command_line


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_string("checkpoint", None, "That reads pages.", required=True)
    flags.DEFINE_integer("requests", 2000, "Of each part.", lower_bound=100)
    flags.DEFINE_integer("clients", 32, "That ask at once.", lower_bound=1)
    flags.DEFINE_list("budgets", None, "In turn; default: least, middle and most.")
    flags.DEFINE_list("text_tokens", None, "Buckets that are warmed up; default: all.")
    flags.DEFINE_integer("rows", 8, "Prompts read at once, a power of two.")
    flags.DEFINE_integer("slots", 16, "Answers written at once, per budget.")
    flags.DEFINE_integer("tokens_per_turn", 4, "Sent at once, of each answer.", 1)


if __name__ == "__main__":
    command_line.begin(define_flags)

import asyncio
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from visor_jax.budget import BudgetSet
from visor_jax.checkpoints.stored_network import newest_network
from visor_jax.data.prompts.request import Request
from visor_jax.evals.pages.benchmark import check_reads_pages
from visor_jax.runtime.machine import machine_description
from visor_jax.timing.page_requests import page_requests
from visor_jax.timing.server.connection import Connection, is_end
from visor_jax.timing.server.load import PATH, Load, Outcome, Question, kinds_of
from visor_jax.timing.server.served_process import (
    COMPILED,
    DEVICE_BYTES,
    MEMORY_BYTES,
    NEVER_KEPT,
    OPEN_FILES,
    ServedProcess,
    served,
)

_NAME, _BODY_MB = "timed", 1
# Keeps what is open for the metrics themselves, and what a client's last close leaves.
_MORE_FILES = 4
# One after the other; more than images that a server keeps.
_LAST = 100


def main(arguments: list[str]) -> None:
    """Prints the times, and what is wrong. A user's mistake ends with code 2."""
    del arguments
    options = flags.FLAGS
    with command_line.user_errors(), tempfile.TemporaryDirectory() as folder:
        budgets = _budgets(options)
        asked = page_requests(options.requests)
        names = [budgets[i % len(budgets)] for i in range(len(asked))]
        print(f"{machine_description()}, {len(asked)} questions, in {budgets}")
        texts, seconds = _answered(Path(folder), asked, names, options)
        print(f"answer: {seconds:.1f} s, {len(asked) / seconds:.3g} a second")
        questions = [
            Question.about(
                *(request.images[0], request.prompt), model=_NAME, budget=b, answer=text
            )
            for request, b, text in zip(asked, names, texts, strict=True)
        ]
        with served(_server_flags(options, budgets)) as server:
            wrong = _timed(server, questions, seconds, options)
    if wrong:
        command_line.fail("; ".join(wrong[:5]), command_line.FAILED)


def _budgets(options: Any) -> list[str]:
    """Returns the budgets' names. Raises ValueError for those it has not."""
    stored = newest_network(options.checkpoint)
    check_reads_pages(stored.config, stored.metadata)
    if options.budgets is not None:
        known = BudgetSet.parse(",".join(options.budgets), stored.config.plan)
        return list(known.names)
    every = sorted(stored.budgets.budgets, key=lambda budget: len(budget.self_layers))
    chosen = (every[0], every[len(every) // 2], every[-1])
    return list(dict.fromkeys(budget.name for budget in chosen))


def _engine_flags(options: Any) -> list[str]:
    found = [f"--rows={options.rows}", f"--slots={options.slots}"]
    if options.text_tokens is not None:
        found.append(f"--text_tokens={','.join(options.text_tokens)}")
    return [f"--checkpoint={options.checkpoint}", *found]


def _server_flags(options: Any, budgets: Sequence[str]) -> list[str]:
    return [
        *_engine_flags(options),
        *(f"--budget={budgets[-1]}", f"--budgets={','.join(budgets)}"),
        *(f"--name={_NAME}", f"--body_mb={_BODY_MB}"),
        f"--tokens_per_turn={options.tokens_per_turn}",
        f"--most_requests={2 * options.clients}",
    ]


def _answered(
    folder: Path, asked: Sequence[Request], budgets: Sequence[str], options: Any
) -> tuple[list[str], float]:
    """Returns what `answer` answers, and in how many seconds, compiling left out."""
    lines = []
    for number, (request, budget) in enumerate(zip(asked, budgets, strict=True)):
        Image.fromarray(request.images[0]).save(folder / f"{number}.png")
        said = {"prompt": request.prompt, "budget": budget}
        lines.append(json.dumps({"id": number, "image": f"{number}.png", **said}))
    questions, answers = folder / "requests.jsonl", folder / "answers.jsonl"
    questions.write_text("\n".join(lines))
    command = [sys.executable, "-m", "visor_jax.answer", *_engine_flags(options)]
    files = [f"--input={questions}", f"--output={answers}", "--warm_up"]
    done = subprocess.run([*command, *files], capture_output=True, text=True)
    found = re.search(r"this run: (\d+) in ([\d.]+) s", done.stderr)
    if done.returncode or found is None:
        raise ValueError(f"answer failed: {done.stderr[-500:]}")
    records = [json.loads(line) for line in answers.read_text().splitlines()]
    texts = {record["id"]: record["answer"] for record in records}
    return [texts[number] for number in range(len(asked))], float(found[2])


def _timed(
    server: ServedProcess, questions: list[Question], seconds: float, options: Any
) -> list[str]:
    """Prints what the server does; returns what is wrong."""
    total, place = len(questions), (server.host, server.port)
    limits = {"clients": options.clients, "flood_bytes": int(2e6 * _BODY_MB)}
    good = [("whole", "stream")[i % 2] for i in range(total)]
    used = server.cpu_seconds()
    plain = Load(*place, questions, good, **limits).run()
    share = seconds / plain.seconds
    print(f"server: {_told(plain)}, {share:.2f} x of answer", flush=True)
    print(_processor_told(used, server.cpu_seconds(), plain), flush=True)
    before = _metrics_at_rest(server, questions)
    mixed = Load(*place, questions, kinds_of(total), **limits).run()
    after = _metrics_at_rest(server, questions)
    print(f"server, mixed: {_told(mixed)}; {dict(mixed.counts)}")
    wrong = [*plain.wrong, *mixed.wrong, *_kept(before, after, mixed)]
    return [*wrong, *_ended(server, questions[: options.clients])]


def _metrics_at_rest(
    server: ServedProcess, questions: Sequence[Question]
) -> dict[str, float]:
    """Returns the metrics once nothing is asked and the same images are kept.

    What keys and values of an image take depends on the budget, so that what is kept
    of the last ones must be of the same.
    """
    server.wait_until_empty()
    last = questions[:_LAST]
    limits = {"clients": 1, "flood_bytes": 0}
    Load(server.host, server.port, last, ["whole"] * len(last), **limits).run()
    return server.wait_until_empty()


def _told(outcome: Outcome) -> str:
    p50, p95 = outcome.quantiles()
    rate = outcome.answered() / outcome.seconds
    return (
        f"{outcome.seconds:.1f} s, {rate:.3g} answers a second; first token p50 "
        f"{1e3 * p50:.0f} ms, p95 {1e3 * p95:.0f} ms"
    )


def _processor_told(
    before: dict[str, float], after: dict[str, float], outcome: Outcome
) -> str:
    """Returns who took the processor meanwhile."""
    spent = {"clients": outcome.cpu_seconds}
    spent |= {name: after[name] - before[name] for name in after}
    told = ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items())
    return f"processor seconds: {told}"


def _kept(
    before: dict[str, float], after: dict[str, float], outcome: Outcome
) -> list[str]:
    """Prints what the server holds; returns what it should not hold or have counted."""
    device = before[DEVICE_BYTES], after[DEVICE_BYTES]
    files = before[OPEN_FILES], after[OPEN_FILES]
    grown = (after[MEMORY_BYTES] - before[MEMORY_BYTES]) / 1e6
    print(
        f"afterwards: {sum(after[name] for name in NEVER_KEPT):g} requests or slots "
        f"held; device {device[0]:.0f} -> {device[1]:.0f} bytes; files {files[0]:g} -> "
        f"{files[1]:g}; memory {grown:+.0f} MB"
    )
    wrong = [f"{name} is {after[name]:g}" for name in NEVER_KEPT if after[name]]
    if device[0] != device[1]:
        wrong.append(f"bytes on the device were {device[0]:g}, are {device[1]:g}")
    if after[COMPILED] != before[COMPILED]:
        wrong.append("programs were compiled that the warm-up had left out")
    if files[1] > files[0] + _MORE_FILES:
        wrong.append(f"open files were {files[0]:g}, are {files[1]:g}")
    counted = after["visor_outcomes_total"] - before["visor_outcomes_total"] - _LAST
    vanished = outcome.counts["vanish"]
    entered = outcome.answered() + outcome.counts["leave"]
    # Who goes away at once may never come to the engine.
    if not entered <= counted <= entered + vanished:
        wrong.append(f"{counted:g} of {entered} requests came to an end")
    return wrong


def _ended(server: ServedProcess, questions: Sequence[Question]) -> list[str]:
    """Ends the server while it streams; returns what is wrong."""
    whole = asyncio.run(_streamed_at_the_end(server, questions))
    code = server.exit_code()
    print(f"SIGTERM: {whole} of {len(questions)} streams ended whole, exit code {code}")
    wrong = [] if whole == len(questions) else [f"{whole} of {len(questions)} ended"]
    return wrong + ([f"exit code {code}"] if code else [])


async def _streamed_at_the_end(
    server: ServedProcess, questions: Sequence[Question]
) -> int:
    """Returns how many answers came to their end although the server was told to."""
    begun = asyncio.Barrier(len(questions) + 1)

    async def stream(question: Question) -> bool:
        connection = Connection(server.host, server.port)
        body = json.dumps({**question.body, "stream": True}).encode()
        events = (await connection.ask(PATH, body)).events()
        last = await anext(events)
        await begun.wait()
        async for event in events:
            last = event
        return is_end(last)

    async def end() -> None:
        await begun.wait()
        server.terminate()

    asked = [stream(question) for question in questions]
    *ended, _ = await asyncio.gather(*asked, end(), return_exceptions=True)
    return sum(each is True for each in ended)


if __name__ == "__main__":
    command_line.run(main)
