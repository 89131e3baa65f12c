"""`python -m visor_jax.generate`: answers one question about one image.

    python -m visor_jax.generate --checkpoint=runs/universal --image=page.png \\
        --prompt="digit row 2 column 3" --budget=sa1:3

Prints the answer; with --json one line that also holds the budget's FLOPs and the
measured time. A user's mistake is one line on stderr and exit code 2.
"""

import json
from typing import Any

from absl import flags

from visor_jax import command_line
from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.library import DEFAULT_NEW_TOKENS, VisorModel, load


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_string("checkpoint", None, "Workdir or checkpoint.", required=True)
    flags.DEFINE_string("image", None, "Image file.", required=True)
    flags.DEFINE_string("prompt", None, "The question.", required=True)
    flags.DEFINE_string("budget", None, "'none', 'all', 'sa1:3', ...; default: most.")
    flags.DEFINE_integer(
        "max_new_tokens", DEFAULT_NEW_TOKENS, "At most so many.", lower_bound=1
    )
    flags.DEFINE_bool("json", False, "Print one JSON line: answer, FLOPs, time.")


def main(arguments: list[str]) -> None:
    """Prints the answer to the question that the flags ask."""
    del arguments
    options = flags.FLAGS
    with command_line.user_errors():
        model = load(options.checkpoint)
        budget = model.budget(options.budget)
        batch = model.batch(options.image, options.prompt)
    answer = model.answer(batch, budget, max_new_tokens=options.max_new_tokens)
    if options.json:
        report = _report(model, batch, budget, answer, options.max_new_tokens)
        print(json.dumps(report))
    else:
        print(answer)


def _report(
    model: VisorModel, batch: Batch, budget: Budget, answer: str, max_new_tokens: int
) -> dict[str, Any]:
    """Returns the JSON line; FLOPs and time are of the prompt as it was computed."""
    lengths = {
        "text_tokens": batch.tokens.shape[1],
        "image_tokens": batch.image_mask.shape[1],
        "crops": batch.pixels.shape[1],
        "logit_positions": 1,
    }
    cost = model.cost(budget, **lengths)
    latency = model.latency(batch, budget, max_new_tokens=max_new_tokens)
    return {
        "answer": answer,
        "budget": budget.name,
        "self_layers_on": len(budget.self_layers),
        "flops": {
            "tower": cost.tower,
            "projector": cost.projector,
            "llm_prefill": cost.llm_prefill,
            "decode_per_token": cost.decode_per_token,
        },
        "llm_saving": cost.llm_saving,
        "end_to_end_saving": cost.end_to_end_saving,
        "counted": lengths,
        "ms": {
            "prefill": round(latency.prefill, 3),
            "per_token": round(latency.per_token, 3),
        },
    }


if __name__ == "__main__":
    define_flags()
    command_line.run(main)
