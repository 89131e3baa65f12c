"""`python -m visor_jax.generate`: answers one prompt about one image, several, or none.

    python -m visor_jax.generate --checkpoint=runs/universal --image=page.png \\
        --prompt="digit row 2 column 3" --budget=sa1:3

The checkpoint may also be a LLaVA-OneVision of Hugging Face (folder or Hub id). Prints
the answer as it is written; with --json one line that also holds the budget's FLOPs and
the measured time. A user's mistake is one line on stderr and exit code 2.
"""

import json
from typing import Any

import jax
from absl import flags

from visor_jax import command_line
from visor_jax.data.chat_template import TEMPLATES
from visor_jax.inference.reader import Request
from visor_jax.inference.sampling import Sampling
from visor_jax.inference.visor_model import ReadPrompt, VisorModel
from visor_jax.library import load
from visor_jax.models.config import COMPUTE_DTYPES


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_string("checkpoint", None, "Checkpoint or Hub id.", required=True)
    flags.DEFINE_multi_string("image", [], "Image file; repeat it for several.")
    flags.DEFINE_string("prompt", None, "The question.", required=True)
    flags.DEFINE_string(
        "budget", None, "'none', 'all', 'sa1:3', ..., 'auto'; default: most."
    )
    flags.DEFINE_float("cost", 0.0, "With 'auto': above 0 for cheaper choices.")
    flags.DEFINE_integer(
        "max_new_tokens", None, "At most so many.", lower_bound=1, required=False
    )
    flags.DEFINE_float("temperature", 0.0, "0 for the likeliest token.")
    flags.DEFINE_integer("top_k", None, "Draw among so many tokens.")
    flags.DEFINE_float("top_p", None, "Draw among tokens of so much probability.")
    flags.DEFINE_float("repetition_penalty", 1.0, "Above 1 to avoid used tokens.")
    flags.DEFINE_integer("seed", 0, "Of what is drawn.")
    flags.DEFINE_enum("dtype", None, COMPUTE_DTYPES, "Default: as stored.")
    flags.DEFINE_enum(
        "chat_template", None, sorted(TEMPLATES), "Default: the checkpoint's."
    )
    flags.DEFINE_string("revision", None, "Of a Hub id: branch, tag or commit.")
    flags.DEFINE_bool("json", False, "Print one JSON line: answer, FLOPs, time.")


def main(arguments: list[str]) -> None:
    """Prints the answer to the question that the flags ask."""
    del arguments
    options = flags.FLAGS
    with command_line.user_errors():
        sampling = _sampling(options)
        model = load(
            options.checkpoint,
            dtype=options.dtype,
            chat_template=options.chat_template,
            revision=options.revision,
        )
        prompt = model.read(
            Request(options.prompt, options.image or None),
            options.budget,
            max_new_tokens=options.max_new_tokens,
            cost=options.cost,
        )
        key = None if sampling.is_greedy else jax.random.key(options.seed)
        pieces = model.pieces(prompt, sampling=sampling, key=key)
    if options.json:
        print(json.dumps(_report(model, prompt, "".join(pieces))))
        return
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _sampling(options: Any) -> Sampling:
    return Sampling(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        repetition_penalty=options.repetition_penalty,
    )


def _report(model: VisorModel, prompt: ReadPrompt, answer: str) -> dict[str, Any]:
    """Returns the JSON line; FLOPs and time are of the prompt as it was computed."""
    batch, budget = prompt.batch, prompt.budget
    lengths = {
        "text_tokens": batch.tokens.shape[1],
        "image_tokens": batch.image_mask.shape[1],
        "crops": batch.pixels.shape[1],
        "logit_positions": 1,
    }
    cost = model.cost(budget, **lengths)
    latency = model.latency(batch, budget, max_new_tokens=prompt.max_new_tokens)
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
