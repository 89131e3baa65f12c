"""`python -m visor_jax.generate`: answers one prompt about images, videos, or neither.

    python -m visor_jax.generate --checkpoint=runs/universal --image=page.png \\
        --prompt="digit row 2 column 3" --budget=sa1:3
    python -m visor_jax.generate --checkpoint=HF --video=clip.mp4 \\
        --prompt="What happens?"

The checkpoint may also be a LLaVA-OneVision of Hugging Face (folder or Hub id). Prints
the answer as it is written; with --json one line that also holds what was looked at,
the FLOPs of that in the budget, and the measured time. A user's mistake is one line on
stderr and exit code 2.
"""

from absl import flags

from visor_jax.commands import answer_flags, command_line


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    answer_flags.define_network_flags()
    flags.DEFINE_multi_string("image", [], "Image file; repeat it for several.")
    flags.DEFINE_multi_string(
        "video", [], "Animation or video file; repeat it for several."
    )
    flags.DEFINE_string("prompt", None, "The question.", required=True)
    answer_flags.define_answer_flags()
    answer_flags.define_crops_flag()
    flags.DEFINE_bool("json", False, "Print one JSON line: answer, FLOPs, time.")


if __name__ == "__main__":
    command_line.begin(define_flags)

import json
from typing import Any

from visor_jax.data.prompts.request import Request
from visor_jax.inference.options import ReadPrompt
from visor_jax.inference.visor_model import VisorModel


def main(arguments: list[str]) -> None:
    """Prints the answer to the question that the flags ask."""
    del arguments
    options = flags.FLAGS
    with command_line.user_errors():
        sampling = answer_flags.sampling_of(options)
        model = answer_flags.load_network(options)
        prompt = model.read(
            Request(options.prompt, options.image or None, options.video or None),
            options.budget,
            max_new_tokens=options.max_new_tokens,
            cost=options.cost,
            crops=options.crops,
        )
        key = answer_flags.random_key(options, sampling)
        how = {"sampling": sampling, "key": key, "stop": options.stop}
        prompt = model.look(prompt, **how)
        pieces = model.pieces(prompt, **how)
    if options.json:
        print(json.dumps(_report(model, prompt, "".join(pieces))))
        return
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _report(model: VisorModel, prompt: ReadPrompt, answer: str) -> dict[str, Any]:
    """Returns the JSON line; FLOPs and time are of the prompt as it was computed.

    FLOPs of a cascade are of its looks together, the writing of answers left out; how
    sure the first one was stands there instead of a time.
    """
    batch, budget, first = prompt.batch, prompt.budget, prompt.first
    lengths = {
        "text_tokens": batch.tokens.shape[1],
        "image_tokens": batch.image_mask.shape[1],
        "crops": batch.pixels.shape[1],
        "logit_positions": 1,
    }
    looked_before = first is not None and first.budget != budget
    cost = model.network.cost(
        budget, first_look=first.budget if looked_before else None, **lengths
    )
    # Of the look before, where the network chose tiles.
    choosing = (prompt.looked_at or {}).get("choosing_flops", 0)
    own = cost.tower + cost.projector + cost.llm_prefill
    report = {
        "answer": answer,
        "budget": budget.name,
        **({} if model.network.reduce is None else {"reduce": model.network.reduce}),
        **({} if prompt.looked_at is None else {"looked_at": prompt.looked_at}),
        "self_layers_on": len(budget.self_layers),
        "flops": {
            "tower": cost.tower,
            "projector": cost.projector,
            "llm_prefill": cost.llm_prefill,
            "decode_per_token": cost.decode_per_token,
            **({"choosing": choosing} if choosing else {}),
        },
        "llm_saving": cost.llm_saving,
        "end_to_end_saving": cost.end_to_end_saving * own / (own + choosing),
        "counted": lengths,
    }
    if first is not None:
        look = {"budget": first.budget.name, "confidence": first.confidence}
        return {**report, "first_look": look, "looks": 1 + looked_before}
    latency = model.latency(batch, budget, max_new_tokens=prompt.max_new_tokens)
    ms = {"prefill": latency.prefill, "per_token": latency.per_token}
    return {**report, "ms": {name: round(each, 3) for name, each in ms.items()}}


if __name__ == "__main__":
    command_line.run(main)
