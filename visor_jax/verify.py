"""`python -m visor_jax.verify`: does a checkpoint answer as transformers does?

    python -m visor_jax.verify --checkpoint=DIR --reference=HF_DIR \\
        [--images=a.png,b.jpg] [--prompt="What is this?"]

Runs the imported network here and the folder it was imported from in transformers
(PyTorch is needed for this command alone), both in float32 on the same pixels and
tokens, and compares logits and greedy answers. Exit code 0: they agree; 1: they do not;
2: the user's mistake.
"""

import dataclasses
import functools
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from etils import epath
from PIL import Image

from visor_jax import command_line
from visor_jax.budget import Budget
from visor_jax.checkpoints.hf import hf_config
from visor_jax.checkpoints.hf.hub import find_folder
from visor_jax.checkpoints.restore import load_checkpoint, read_metadata
from visor_jax.data.reference_inputs import (
    ImageGeometry,
    ReferenceInputs,
    reference_inputs,
)
from visor_jax.evals.logit_comparison import Answer, Comparison, compare
from visor_jax.inference.decode import answers
from visor_jax.inference.generation import generate
from visor_jax.models.config import VLMConfig
from visor_jax.models.parameters import parameter_shapes
from visor_jax.models.vlm import VLM

DIFFER = 1
DEFAULT_PROMPT = "What is shown in this image?"
# As the published weights were trained, without the system turn.
_TEMPLATE = "<|im_start|>user\n<image>\n{}<|im_end|>\n<|im_start|>assistant\n"
# Tokens of a random prompt, where the folder holds no tokenizer.
_RANDOM_TOKENS = (5, 11)


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_string("checkpoint", None, "Workdir or checkpoint.", required=True)
    flags.DEFINE_string("reference", None, "Hugging Face folder or id.", required=True)
    flags.DEFINE_list("images", None, "Image files; default: two photographs.")
    flags.DEFINE_multi_string("prompt", [], "A question; may be given repeatedly.")
    flags.DEFINE_integer("max_new_tokens", 16, "Of greedy answers.", lower_bound=1)
    flags.DEFINE_float("tolerance", 1e-3, "Of the logits.", lower_bound=0.0)
    flags.DEFINE_float("max_kl", 1e-5, "Of the distributions, nats.", lower_bound=0.0)
    flags.DEFINE_bool("json", False, "Print one JSON line per prompt.")


def main(arguments: list[str]) -> None:
    """Compares the two networks that the flags name."""
    del arguments
    options = flags.FLAGS
    limits = {"tolerance": options.tolerance, "max_kl": options.max_kl}
    with command_line.user_errors():
        compared = verify(
            options.checkpoint,
            options.reference,
            images=options.images,
            prompts=options.prompt,
            max_new_tokens=options.max_new_tokens,
        )
    for result in compared:
        holds = result.holds(**limits)
        if options.json:
            print(json.dumps({**dataclasses.asdict(result), "holds": holds}))
        else:
            print(result.line(holds=holds))
    if not all(result.holds(**limits) for result in compared):
        sys.exit(DIFFER)


def verify(
    checkpoint: epath.PathLike,
    reference: str,
    *,
    images: Sequence[str] | None = None,
    prompts: Sequence[str] = (),
    max_new_tokens: int = 16,
) -> list[Comparison]:
    """Returns the comparison of every image with every prompt.

    Args:
      checkpoint: workdir or checkpoint of a dense network.
      reference: folder or Hub id that transformers loads.
      images: files; None for two photographs.
      prompts: () for one question, or random tokens if there is no tokenizer.

    Raises:
      ValueError: for paths that are no checkpoint, a VISOR network, or missing PyTorch.
    """
    config = VLMConfig.from_dict(read_metadata(checkpoint)["model"])
    if not config.plan.is_dense:
        raise ValueError(
            f"{checkpoint} is a VISOR network, whose answers are its own: import with "
            "--plan=dense to compare with LLaVA-OneVision."
        )
    folder = find_folder(reference)
    parsed = hf_config.parse(hf_config.read_config_json(folder))
    _require_torch()
    # The command wants exact products; PyTorch on a CPU has no others.
    jax.config.update("jax_default_matmul_precision", "highest")
    form = geometry(parsed)
    pictures = _pictures(images, form.size)
    token_lists = _token_lists(folder, parsed, prompts)
    cases = {
        f"{image_name}, {prompt_name}": reference_inputs(
            image, tokens, parsed.image_token_index, form
        )
        for (image_name, image), (prompt_name, tokens) in itertools.product(
            pictures.items(), token_lists.items()
        )
    }
    count, eos = max_new_tokens, _first(parsed.text_config.eos_token_id)
    # One after the other: two copies of a large network may not fit.
    ours = run_ours(checkpoint, config, cases, eos, count)
    theirs = run_reference(folder, parsed, cases, eos, count)
    return [compare(name, ours[name], theirs[name]) for name in cases]


def _require_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "This command runs the reference in PyTorch: pip install torch."
        ) from error


def _first(eos: int | list[int] | None) -> int:
    """Returns the token that ends answers, -1 if none does; both networks get it."""
    if isinstance(eos, list):
        return eos[0]
    return -1 if eos is None else eos


def geometry(parsed: Any) -> ImageGeometry:
    """Returns how a parsed configuration wants images processed."""
    vision = parsed.vision_config
    return ImageGeometry(
        size=vision.image_size,
        patches_per_side=vision.image_size // vision.patch_size,
        pinpoints=tuple(tuple(pair) for pair in parsed.image_grid_pinpoints),
        max_grid=int(parsed.vision_aspect_ratio.removeprefix("anyres_max_")),
    )


def _pictures(files: Sequence[str] | None, size: int) -> dict[str, Image.Image]:
    """Returns the images; without files, photographs of about four tiles."""
    if files is not None:
        opened = {}
        for file in files:
            with Image.open(file) as image:
                opened[Path(file).name] = image.convert("RGB")
        return opened
    from sklearn.datasets import load_sample_images

    found = load_sample_images()
    pictures = map(Image.fromarray, found.images)
    return {
        Path(name).name: picture.resize(
            (2 * size, 2 * size * picture.height // picture.width)
        )
        for name, picture in zip(found.filenames, pictures, strict=True)
    }


def _token_lists(
    folder: Path, parsed: Any, prompts: Sequence[str]
) -> dict[str, list[int]]:
    image_token = parsed.image_token_index
    if (folder / "tokenizer.json").is_file():
        from visor_jax.data.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(folder)
        return {
            repr(prompt): tokenizer.encode(
                _TEMPLATE.format(prompt), add_special_tokens=False
            )
            for prompt in prompts or [DEFAULT_PROMPT]
        }
    if prompts:
        raise ValueError(f"{folder} has no tokenizer.json: prompts cannot be read.")
    special = (image_token, parsed.video_token_index)
    highest = min(*special, parsed.text_config.vocab_size)
    before, after = np.split(
        np.random.default_rng(0).integers(0, highest, sum(_RANDOM_TOKENS)),
        _RANDOM_TOKENS[:1],
    )
    return {"random tokens": [*before.tolist(), image_token, *after.tolist()]}


def run_ours(
    checkpoint: epath.PathLike,
    config: VLMConfig,
    cases: dict[str, ReferenceInputs],
    eos: int,
    count: int,
) -> dict[str, Answer]:
    """Returns what the checkpoint's network makes of every case, in float32."""
    config = config.replace(compute_dtype="float32", remat="none", reading_layers=())
    params = load_checkpoint(checkpoint, parameter_shapes(config)).params
    network, budget = VLM(config), Budget.all(config.plan)
    gates = budget.gates(config.plan)
    forward = jax.jit(lambda p, b: network.apply({"params": p}, b, gates).logits)
    answered = {}
    for name, case in cases.items():
        logits = np.asarray(forward(params, case.batch))[0, : case.num_text]
        tokens = generate(
            network,
            params,
            case.batch,
            budget,
            max_new_tokens=count,
            eos_id=eos,
            pad_id=0,
        )
        answered[name] = Answer(logits=logits, tokens=answers(tokens, eos)[0])
    return answered


def run_reference(
    folder: Path,
    parsed: Any,
    cases: dict[str, ReferenceInputs],
    eos: int,
    count: int,
) -> dict[str, Answer]:
    """Returns what transformers makes of every case, in float32."""
    import torch
    from transformers import LlavaOnevisionForConditionalGeneration

    model = LlavaOnevisionForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    write = functools.partial(
        model.generate,
        do_sample=False,
        max_new_tokens=count,
        eos_token_id=None if eos < 0 else eos,
        pad_token_id=0,
    )
    answered = {}
    for name, case in cases.items():
        inputs = {
            "input_ids": torch.tensor(case.ids, dtype=torch.long),
            "pixel_values": torch.tensor(case.pixel_values),
            "image_sizes": torch.tensor(case.image_sizes),
            "attention_mask": torch.ones(case.ids.shape, dtype=torch.long),
        }
        with torch.no_grad():
            logits = model(**inputs).logits[0].float().numpy()
            written = write(**inputs)[:, case.ids.shape[1] :]
        answered[name] = Answer(
            logits=case.text_of(logits, parsed.image_token_index),
            tokens=answers(jnp.asarray(written.numpy()), eos)[0],
        )
    return answered


if __name__ == "__main__":
    define_flags()
    command_line.run(main)
