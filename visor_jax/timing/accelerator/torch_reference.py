"""Part 3: the same sizes in transformers (PyTorch, `sdpa`, bfloat16), same card.

The language model alone and the tower alone, as in parts 2 and 4: random parameters of
the same shapes, since times do not depend on their values. Skipped without PyTorch or
without a device that it can use.
"""

from collections.abc import Callable, Iterator
from typing import Any

from visor_jax.models.config import VisionConfig, VLMConfig
from visor_jax.timing.accelerator import network
from visor_jax.timing.accelerator.measure import Deadline, Unavailable, times_of
from visor_jax.timing.accelerator.network import Size
from visor_jax.timing.accelerator.record import Row

_GROUPS = (("0.5B", (8, 1), 8), ("7B", (1,), 1))
# Tokens of a run.
_STEPS = 8
_LEAST_S = 15.0
_KERNEL = "torch sdpa"


def rows(*, tiny: bool, deadline: Deadline) -> Iterator[Row]:
    """Yields tower, prefill and decoding step of each network."""
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise Unavailable(str(error)) from error
    if not torch.cuda.is_available() and not tiny:
        raise Unavailable("PyTorch sees no CUDA device")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, batches, decoded in (("0.5B", (1,), 1),) if tiny else _GROUPS:
        deadline.check(0.0 if tiny else _LEAST_S)
        size = network.size(name, tiny=tiny)
        with torch.device(device), torch.inference_mode():
            yield from _network(size, batches, decoded, deadline)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _network(
    size: Size, batches: tuple[int, ...], decoded: int, deadline: Deadline
) -> Iterator[Row]:
    language, tower = _language_model(size.config), _tower(size.config.vision)
    shape = f"{size.name}, {size.image_tokens} + {size.text_tokens}"
    for batch in batches:
        where = {"shape": shape, "rows": batch, "kernel": _KERNEL}
        for what, run in (
            ("tower", _tower_run(tower, size, batch)),
            ("decoder", _prefill_run(language, size, batch)),
        ):
            budget = {} if what == "tower" else {"budget": "dense"}
            yield {"what": what, **where, **budget, **_times(run, deadline)}
    step = _decode_run(language, size, decoded)
    times = _times(step, deadline, each=_STEPS)
    yield {
        "what": "step",
        "shape": shape,
        "rows": decoded,
        "kernel": _KERNEL,
        "budget": "dense",
        **times,
        "tokens_per_s": 1e3 * decoded / times["ms"],
    }


def _language_model(config: VLMConfig) -> Any:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    decoder = config.decoder
    theirs = Qwen2Config(
        vocab_size=decoder.vocab_size,
        hidden_size=decoder.width,
        intermediate_size=decoder.mlp_width,
        num_hidden_layers=config.plan.num_layers,
        num_attention_heads=decoder.num_heads,
        num_key_value_heads=decoder.num_kv_heads,
        tie_word_embeddings=decoder.tie_embeddings,
        attn_implementation="sdpa",
        dtype=torch.bfloat16,
    )
    return Qwen2ForCausalLM(theirs).to(torch.bfloat16).eval()


def _tower(vision: VisionConfig) -> Any:
    import torch
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=vision.width,
        intermediate_size=vision.mlp_width,
        num_hidden_layers=vision.num_layers,
        num_attention_heads=vision.num_heads,
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        vision_use_head=False,
        attn_implementation="sdpa",
        dtype=torch.bfloat16,
    )
    return SiglipVisionModel(config).to(torch.bfloat16).eval()


def _tower_run(tower: Any, size: Size, batch: int) -> Callable[[], Any]:
    import torch

    side = size.config.vision.image_size
    pixels = torch.randn(batch * size.crops, 3, side, side, dtype=torch.bfloat16)
    return lambda: tower(pixels).last_hidden_state


def _prefill_run(language: Any, size: Size, batch: int) -> Callable[[], Any]:
    import torch

    length = size.image_tokens + size.text_tokens
    width = size.config.decoder.width
    embedded = torch.randn(batch, length, width, dtype=torch.bfloat16)
    return lambda: language(inputs_embeds=embedded, use_cache=True, logits_to_keep=1)


def _decode_run(language: Any, size: Size, batch: int) -> Callable[[], Any]:
    """Returns a run of `_STEPS` greedy tokens against a prompt's cache."""
    import torch

    cache = _prefill_run(language, size, batch)().past_key_values

    def run() -> Any:
        token = torch.zeros(batch, 1, dtype=torch.long)
        for _ in range(_STEPS):
            out = language(input_ids=token, past_key_values=cache, use_cache=True)
            token = out.logits.argmax(-1)
        # The next run finds the prompt alone.
        cache.crop(-_STEPS)
        return token

    return run


def _times(run: Callable[[], Any], deadline: Deadline, *, each: int = 1) -> Row:
    import torch

    on_card = torch.cuda.is_available()
    if on_card:
        torch.cuda.reset_peak_memory_stats()

    def wait() -> None:
        run()
        if on_card:
            torch.cuda.synchronize()

    times: Row = dict(times_of(wait, deadline, each=each))
    if on_card:
        times["peak_bytes"] = torch.cuda.max_memory_allocated()
    return times
