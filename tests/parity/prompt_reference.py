"""What transformers makes of prompts with pictures; run as a program, golden files.

transformers gets its own pixels, and ids in which every placeholder is repeated; its
model refuses a wrong count.
"""

import functools
import types

import jax
import numpy as np

from tests.data import tiny_llava
from tests.data.prompts import prompt_cases
from tests.data.prompts.prompt_cases import Prompt, is_tied
from tests.data.tiny_llava import hf_image_processor, image_settings
from tests.parity.test_llava_onevision import (
    mapped,
    text_config,
    vision_config,
)
from visor_jax.data.images.anyres import frame_crops
from visor_jax.data.images.patch_index import anyres_patch_index
from visor_jax.data.prompts.chat_template import render

_PLACES = (tiny_llava.IMAGE, tiny_llava.VIDEO)


@functools.cache
def hf_model(tile: int, *, sharp: bool = False):
    """Returns the model of transformers with our parameters."""
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
    )

    model = LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(
            vision_config=vision_config(image_size=tile),
            text_config=text_config(is_tied(tile)),
            image_token_index=tiny_llava.IMAGE,
            video_token_index=tiny_llava.VIDEO,
            image_grid_pinpoints=[list(p) for p in image_settings(tile).pinpoints],
            tie_word_embeddings=is_tied(tile),
            attn_implementation="eager",
        )
    )
    state = model.state_dict()
    if is_tied(tile):
        del state["lm_head.weight"]
    _set_parameters(state, prompt_cases.parameters(tile, sharp=sharp))
    return model.eval()


def _set_parameters(state, params):
    """Writes our parameters into tensors; `mapped` says which number goes where."""
    import torch

    for name, tensor in state.items():
        places = torch.arange(tensor.numel()).reshape(tensor.shape)
        tree = mapped(types.SimpleNamespace(state_dict={name: places}.copy))
        ((path, index),) = jax.tree.leaves_with_path(tree)
        value = params
        for key in path:
            value = value[key.key]
        assert index.shape == value.shape, name
        flat = np.empty(index.size, np.float32)
        flat[np.ravel(index)] = np.ravel(value)
        tensor.copy_(torch.tensor(flat).reshape(tensor.shape))


def hf_ids(tile: int, prompt: Prompt) -> list[int]:
    """Returns the ids of one prompt, placeholders repeated in the text."""
    images, videos = prompt
    processor, tokenizer = prompt_cases.processor(tile), tiny_llava.tokenizer()
    side = processor.images.patches_per_side
    pieces = render(
        prompt_cases.messages(prompt), processor.template, generation_prompt=True
    )
    text = "".join(piece.text for piece in pieces)
    counts = [side**2 + 1] * len(images)
    if len(images) == 1:
        size = images[0].shape[:2]
        counts = [anyres_patch_index(*size, processor.images).count]
    half = -(-side // 2)
    video_counts = [len(frames) * half**2 + 1 for frames in videos]
    for token, numbers in (("<image>", counts), ("<video>", video_counts)):
        head, *rest = text.split(token)
        text = head + "".join(
            token * number + tail for number, tail in zip(numbers, rest, strict=True)
        )
    return tokenizer(text)["input_ids"]


def hf_logits(tile: int, prompts: list[Prompt]) -> list[np.ndarray]:
    """Returns per prompt the logits of its text, from one left-padded batch."""
    import torch

    rows = [hf_ids(tile, prompt) for prompt in prompts]
    with torch.no_grad():
        logits = hf_model(tile)(**_inputs(tile, prompts, rows)).logits.numpy()
    return [
        values[-len(row) :][~np.isin(row, _PLACES)]
        for values, row in zip(logits, rows, strict=True)
    ]


def hf_answers(tile: int, prompts: list[Prompt]) -> list[np.ndarray]:
    """Returns per prompt the tokens that greedy generation writes."""
    rows = [hf_ids(tile, prompt) for prompt in prompts]
    tokens = hf_model(tile, sharp=True).generate(
        **_inputs(tile, prompts, rows),
        do_sample=False,
        max_new_tokens=prompt_cases.NEW_TOKENS,
        eos_token_id=tiny_llava.END,
        pad_token_id=tiny_llava.PAD,
    )
    return list(tokens[:, max(map(len, rows)) :].numpy())


def _inputs(tile: int, prompts: list[Prompt], rows: list[list[int]]):
    """Returns one left-padded batch."""
    import torch

    longest = max(map(len, rows))
    padding = torch.tensor([[longest - len(row)] for row in rows])
    ids = [[tiny_llava.PAD] * (longest - len(row)) + row for row in rows]
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": (torch.arange(longest) >= padding).long(),
        **_pictures(tile, prompts),
    }


def _pictures(tile: int, prompts: list[Prompt]):
    import torch

    settings, inputs = image_settings(tile), {}
    nested = [images for images, _ in prompts if images]
    if nested:
        found = hf_image_processor(settings)(nested, return_tensors="np")
        inputs = {name: torch.tensor(value) for name, value in found.items()}
    videos = [frames for _, videos in prompts for frames in videos]
    if videos:
        # transformers has no video processor without torchvision.
        crops = np.stack([frame_crops(frames, settings) for frames in videos])
        inputs["pixel_values_videos"] = torch.tensor(crops.transpose(0, 1, 4, 2, 3))
    return inputs


def reference() -> dict[str, np.ndarray]:
    """Returns {case, tile and row: (T, columns) logits} of transformers."""
    return {
        f"{name} {tile} {row}": logits[:, prompt_cases.COLUMNS]
        for (name, tile), prompts in prompt_cases.cases().items()
        for row, logits in enumerate(hf_logits(tile, prompts))
    }


def reference_answers() -> dict[str, np.ndarray]:
    """Returns {case, tile and row: (N,) tokens} of transformers."""
    return {
        f"{name} {tile} {row}": tokens
        for (name, tile), prompts in prompt_cases.cases().items()
        for row, tokens in enumerate(hf_answers(tile, prompts))
    }


if __name__ == "__main__":
    np.savez_compressed(prompt_cases.GOLDEN, **reference())
    np.savez_compressed(prompt_cases.GOLDEN_ANSWERS, **reference_answers())
