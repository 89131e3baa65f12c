"""What the logits processors of `transformers` make of random logits, and its copy.

    python -m tests.parity.sampling_reference

writes the copy, `tests/inference/sampling_golden.npz`, which the tests of sampling read
where there is no torch.
"""

from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "inference/sampling_golden.npz"
ROWS, VOCABULARY, LENGTH = 3, 40, 12
# Arguments of `Sampling`.
SETTINGS: tuple[dict[str, float], ...] = (
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7},
    {"temperature": 0.4},
    {"temperature": 1.0, "top_k": 5},
    {"temperature": 1.0, "top_k": 400},
    {"temperature": 2.5, "top_p": 0.8},
    {"temperature": 1.0, "top_p": 1e-6},
    {"temperature": 0.7, "top_k": 8, "top_p": 0.5},
    {"temperature": 1.7, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.5},
    {"temperature": 0.9, "top_p": 0.95, "repetition_penalty": 3.0},
)


def inputs() -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens so far (ROWS, LENGTH) and logits (ROWS, VOCABULARY)."""
    rng = np.random.default_rng(11)
    tokens = rng.integers(0, VOCABULARY, (ROWS, LENGTH))
    return tokens, rng.normal(scale=2, size=(ROWS, VOCABULARY)).astype(np.float32)


def reference(settings: dict[str, float]) -> np.ndarray:
    """Returns the logits after the processors that `generate` builds, in its order."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM
    from transformers.generation import LogitsProcessorList

    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    chosen = {"do_sample": False, **settings}
    if "temperature" in settings:
        # top_k is 50 there unless told.
        chosen = {"do_sample": True, "top_k": 0, **settings}
    tokens, logits = (torch.tensor(x) for x in inputs())
    processors = Qwen2ForCausalLM(config)._get_logits_processor(
        GenerationConfig(**chosen),
        input_ids_seq_length=LENGTH,
        encoder_input_ids=tokens,
        prefix_allowed_tokens_fn=None,
        logits_processor=LogitsProcessorList(),
    )
    return processors(tokens, logits).numpy()


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, *(reference(settings) for settings in SETTINGS))
