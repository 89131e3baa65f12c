"""Writes tests/checkpoints/hf/golden: a tiny checkpoint and what transformers answers.

python -m tests.parity.make_golden

config.json, model.safetensors   bfloat16, published names, tied
expected.npz                     image; float32 logits of the text, greedy answer
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import LlavaOnevisionForConditionalGeneration

from tests.checkpoints.hf import golden_prompt
from tests.data import tiny_llava as small
from tests.parity import tiny_llava

GOLDEN = Path(__file__).parents[1] / "checkpoints/hf/golden"
NEW_TOKENS = 4


def main() -> None:
    model = tiny_llava.build(side=56, tied=True).to(torch.bfloat16)
    tiny_llava.save(model, GOLDEN, dtype="bfloat16")
    image = tiny_llava.picture(30, 75)
    inputs = _inputs(image)
    exact = LlavaOnevisionForConditionalGeneration.from_pretrained(
        GOLDEN, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        logits = exact(**inputs).logits[0].numpy()
        written = exact.generate(
            **inputs, do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=None
        )
    is_text = inputs["input_ids"][0].numpy() != small.IMAGE
    np.savez(
        GOLDEN / "expected.npz",
        image=image,
        logits=logits[is_text],
        greedy=written[0, inputs["input_ids"].shape[1] :].numpy(),
    )


def _inputs(image: np.ndarray) -> dict[str, torch.Tensor]:
    count = golden_prompt.sample(image).patch_index.count
    ids: list[int] = []
    for token in golden_prompt.TOKENS:
        ids += [token] * (count if token == small.IMAGE else 1)
    processor = small.hf_image_processor(small.image_settings(side=3))
    pixels = processor([Image.fromarray(image)], return_tensors="np")
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones((1, len(ids)), dtype=torch.long),
        **{name: torch.tensor(value) for name, value in pixels.items()},
    }


if __name__ == "__main__":
    main()
