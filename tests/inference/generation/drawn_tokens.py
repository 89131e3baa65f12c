"""What a tiny network draws in many settings, and the recording of it.

    python -m tests.inference.generation.drawn_tokens

writes the recording, `drawn_tokens.npz`. It was made when every setting was a program
of its own, with the setting's numbers written into it.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from tests.inference import tiny_processor
from tests.inference.engine.tiny_engine import BUDGETS, CONFIG, MODEL, PARAMS
from visor_jax.data.prompts.sampling import Sampling
from visor_jax.inference.generation.generate import generate

RECORDING = Path(__file__).parent / "drawn_tokens.npz"
NEW, PAD, NO_END = 8, 0, -1
SETTINGS: tuple[dict[str, float], ...] = (
    {},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7},
    {"temperature": 0.4},
    {"temperature": 1.7},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 1.3, "top_k": 5},
    {"temperature": 3.0, "top_k": 400},
    {"temperature": 2.5, "top_p": 0.8},
    {"temperature": 1.0, "top_p": 1.0},
    {"temperature": 1.0, "top_p": 1e-6},
    {"temperature": 0.7, "top_k": 8, "top_p": 0.5},
    {"temperature": 1.7, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.5},
    {"temperature": 4.0, "top_p": 0.95, "repetition_penalty": 3.0},
)


def drawn(
    sampling: Sampling | Sequence[Sampling],
    max_new_tokens: int | Sequence[int] = NEW,
) -> np.ndarray:
    """Returns (12, NEW) tokens that follow a few prompts."""
    processor = tiny_processor.processor(CONFIG, eos_id=NO_END)
    requests = tiny_processor.requests(12, seed=8)
    samples = [processor.sample(request, room=NEW) for request in requests]
    tokens = generate(
        MODEL,
        PARAMS,
        processor.buckets.batch(samples, tiny_processor.LARGE),
        BUDGETS[-1],
        max_new_tokens=max_new_tokens,
        eos_id=NO_END,
        pad_id=PAD,
        sampling=sampling,
        key=jax.random.key(21),
    )
    return np.asarray(tokens)


if __name__ == "__main__":
    np.savez_compressed(
        RECORDING, *(drawn(Sampling(**settings)) for settings in SETTINGS)
    )
