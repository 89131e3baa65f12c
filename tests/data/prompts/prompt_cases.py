"""Batches of prompts with pictures whose logits are known, and what we make of them.

The golden files hold what transformers makes of them, with the same parameters: of
every text token the logits at `COLUMNS`, and greedy answers. To write them again:

    PYTHONPATH=. python -m tests.parity.prompt_reference
"""

import functools
from pathlib import Path

import jax
import numpy as np

from tests import tiny
from tests.data import tiny_llava
from tests.data.tiny_llava import image_settings, random_image
from tests.parity.test_llava_onevision import our_config
from visor_jax.data.buckets import Buckets
from visor_jax.data.prompts.chat_processor import ChatProcessor
from visor_jax.models.vlm import VLM

GOLDEN = Path(__file__).parent / "golden/prompt_logits.npz"
GOLDEN_ANSWERS = Path(__file__).parent / "golden/prompt_answers.npz"
NEW_TOKENS = 12
SHARP = 2
# The larger one leaves pixels over beside its patches; its network is untied.
TILES = (56, 60)
# Resized patches, tall, wide, exact grid, upscaled.
SIZES = ((300, 330), (500, 60), (60, 500), (112, 168), (20, 30))
COLUMNS = np.arange(3, 320, 20)

# Images and videos of a prompt.
Prompt = tuple[list[np.ndarray], list[list[np.ndarray]]]


def _frames(*seeds: int) -> list[np.ndarray]:
    return [random_image(40, 70, seed) for seed in seeds]


def cases() -> dict[tuple[str, int], list[Prompt]]:
    """Returns {(name, tile): the prompts of a batch}."""
    images = [random_image(*size) for size in SIZES]
    mixed = [(images[:1], []), (images[1:4], []), ([], []), (images[4:], [])]
    both = [(images[3:4], [_frames(1, 2), _frames(3, 4)])]
    return {
        **{("sizes", tile): [([image], []) for image in images] for tile in TILES},
        ("counts", TILES[0]): mixed,
        ("image and videos", TILES[0]): both,
        ("video", TILES[1]): [([], [_frames(0, 1, 2)])],
    }


def messages(prompt: Prompt) -> list[dict]:
    """Returns a dialogue about the pictures."""
    images, videos = prompt
    return [
        *tiny_llava.question("What is it?", images=len(images), videos=len(videos)),
        {"role": "assistant", "content": [{"type": "text", "text": "A page."}]},
        {"role": "user", "content": [{"type": "text", "text": "Ünd why?"}]},
    ]


def processor(tile: int) -> ChatProcessor:
    """Returns the processor of the network with these crops."""
    return ChatProcessor(
        tokenizer=tiny_llava.tokenizer(),
        images=image_settings(tile),
        template="hub" if tile == TILES[0] else "qwen_1_5",
    )


def is_tied(tile: int) -> bool:
    return tile == TILES[0]


def parameters(tile: int, *, sharp: bool = False):
    """Returns parameters that need nothing but NumPy to be drawn again.

    sharp: with a decoder whose answers depend on all that it reads; else they would
      repeat a word.
    """
    # A copy: what `tiny` returns is kept for others.
    params = dict(tiny.params_of(our_config(tied=is_tied(tile), side=tile))["params"])
    if sharp:
        params["language_model"] = jax.tree.map_with_path(
            lambda path, x: SHARP * x if "kernel" in str(path) else x,
            params["language_model"],
        )
    return params


@functools.partial(jax.jit, static_argnames="tile")
def _forward(params, batch, tile):
    config = our_config(tied=is_tied(tile), side=tile)
    return VLM(config).apply({"params": params}, batch, (True,) * 3).logits


def our_logits(tile: int, prompts: list[Prompt]) -> list[np.ndarray]:
    """Returns per prompt the logits of its text tokens, all from one batch."""
    prepare = processor(tile)
    samples = [
        prepare.prompt(messages(prompt), images=prompt[0], videos=prompt[1])
        for prompt in prompts
    ]
    buckets = Buckets.ladder(
        prepare.images,
        pad_id=tiny_llava.PAD,
        text_tokens=(256,),
        max_frames=8,
        multiple=16,
    )
    # The smallest that holds all of them, so that their padding differs.
    bucket = next(b for b in buckets.all if all(b.holds(s) for s in samples))
    batch = buckets.batch(samples, bucket)
    logits = np.asarray(_forward(parameters(tile), batch, tile))
    return [
        values[: sample.num_text_tokens]
        for values, sample in zip(logits, samples, strict=True)
    ]
