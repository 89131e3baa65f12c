"""Writes tests/checkpoints/hf/golden: a tiny checkpoint and what transformers answers.

python -m tests.parity.make_golden

config.json, model.safetensors   bfloat16, published names, tied
expected.npz                     image, tokens; float32 logits of the text, greedy
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.parity import tiny_llava
from visor_jax import verify
from visor_jax.checkpoints.hf import hf_config
from visor_jax.data.reference_inputs import reference_inputs

GOLDEN = Path(__file__).parents[1] / "checkpoints/hf/golden"
NEW_TOKENS = 4


def main() -> None:
    model = tiny_llava.build(side=56, tied=True).to(torch.bfloat16)
    tiny_llava.save(model, GOLDEN, dtype="bfloat16")
    image = tiny_llava.picture(30, 75)
    tokens = [7, 3, 200, tiny_llava.IMAGE_TOKEN, 11, 45, 99, 250, 1, 31]
    parsed = hf_config.parse(hf_config.read_config_json(GOLDEN))
    case = reference_inputs(
        Image.fromarray(image), tokens, tiny_llava.IMAGE_TOKEN, verify.geometry(parsed)
    )
    answer = verify.run_reference(GOLDEN, parsed, {"": case}, eos=-1, count=NEW_TOKENS)[
        ""
    ]
    np.savez(
        GOLDEN / "expected.npz",
        image=image,
        tokens=tokens,
        logits=answer.logits,
        greedy=answer.tokens,
    )


if __name__ == "__main__":
    main()
