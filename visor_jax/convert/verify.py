"""`python -m visor_jax.convert.verify`: does a checkpoint answer as transformers does?

    python -m visor_jax.convert.verify --checkpoint=DIR --reference=HF_DIR \\
        [--images=a.png,b.jpg] [--prompt="What is this?"]

Runs the imported network here and the folder it was imported from in transformers
(PyTorch is needed for this command alone), both in float32, and compares logits and
greedy answers: about every image, and about all of them together if there are several.
Each side prepares the pictures itself. Exit code 0: they agree; 1: they do not; 2: the
user's mistake.
"""

from absl import flags

from visor_jax.commands import command_line


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


if __name__ == "__main__":
    command_line.begin(define_flags)

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from PIL import Image

from visor_jax.checkpoints.hf.hub import find_folder
from visor_jax.checkpoints.stored_network import newest_network
from visor_jax.convert.logit_comparison import Answer, Comparison, compare
from visor_jax.data.images.read_image import read_image
from visor_jax.data.prompts.processor import Processor
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.sample import Sample
from visor_jax.data.prompts.stop_tokens import cut_at_end
from visor_jax.inference.generation import generate
from visor_jax.inference.loading.load import VisorModel, load

DIFFER = 1
DEFAULT_PROMPT = "What is shown in this image?"


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


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One prompt: its pixels for transformers, and the sample made of them here."""

    pictures: list[np.ndarray]
    sample: Sample


def verify(
    checkpoint: epath.PathLike,
    reference: str,
    *,
    images: Sequence[str] | None = None,
    prompts: Sequence[str] = (),
    max_new_tokens: int = 16,
) -> list[Comparison]:
    """Returns the comparison of every image, and all of them, with every prompt.

    Args:
      checkpoint: workdir or checkpoint of a dense network.
      reference: folder or Hub id that transformers loads, with its tokenizer.
      images: files; None for two photographs.
      prompts: () for one question.

    Raises:
      ValueError: for paths that are no checkpoint, a VISOR network, missing PyTorch, or
        images that cannot be read.
    """
    config = newest_network(checkpoint).config
    if not config.plan.is_dense:
        raise ValueError(
            f"{checkpoint} is a VISOR network, whose answers are its own: import with "
            "--plan=dense to compare with LLaVA-OneVision."
        )
    folder = find_folder(reference)
    _require_torch()
    # The command wants exact products; PyTorch on a CPU has no others.
    jax.config.update("jax_default_matmul_precision", "highest")
    model = load(checkpoint, dtype="float32")
    pictures = _pictures(images, config.vision.image_size)
    cases = _cases(
        model.processor, pictures, prompts or [DEFAULT_PROMPT], max_new_tokens
    )
    ours = {
        name: _our_answer(model, case, max_new_tokens) for name, case in cases.items()
    }
    processor = model.processor
    # One after the other: two copies of a large network may not fit.
    del model
    theirs = reference_answers(folder, processor, cases, max_new_tokens)
    return [compare(name, ours[name], theirs[name]) for name in cases]


def _require_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "This command runs the reference in PyTorch: pip install torch."
        ) from error


def _pictures(files: Sequence[str] | None, size: int) -> dict[str, np.ndarray]:
    """Returns the images; without files, photographs of about four tiles."""
    if files is not None:
        return {Path(file).name: read_image(file) for file in files}
    from sklearn.datasets import load_sample_images

    found = load_sample_images()
    pictures = map(Image.fromarray, found.images)
    return {
        Path(name).name: np.asarray(
            picture.resize((2 * size, 2 * size * picture.height // picture.width))
        )
        for name, picture in zip(found.filenames, pictures, strict=True)
    }


def _cases(
    processor: Processor,
    pictures: dict[str, np.ndarray],
    prompts: Sequence[str],
    max_new_tokens: int,
) -> dict[str, Case]:
    groups = {name: [picture] for name, picture in pictures.items()}
    if len(pictures) > 1:
        groups["all images"] = list(pictures.values())
    return {
        f"{name}, {prompt!r}": Case(
            pictures=group,
            sample=processor.sample(Request(prompt, group), room=max_new_tokens),
        )
        for name, group in groups.items()
        for prompt in prompts
    }


def _our_answer(model: VisorModel, case: Case, count: int) -> Answer:
    batch = model.processor.batch(case.sample)
    tokens = generate.generate(
        model.vlm,
        model.params,
        batch,
        model.budget(),
        max_new_tokens=count,
        eos_id=model.processor.eos_ids,
        pad_id=model.processor.pad_id,
    )
    return Answer(
        logits=model.logits_of(batch)[0][batch.text_mask[0]],
        tokens=cut_at_end(np.asarray(tokens), model.processor.eos_ids)[0],
    )


def reference_answers(
    folder: Path, processor: Processor, cases: dict[str, Case], count: int
) -> dict[str, Answer]:
    """Returns what transformers makes of every case, in float32."""
    import torch
    from transformers import LlavaOnevisionForConditionalGeneration

    model = LlavaOnevisionForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    image_token = model.config.image_token_id
    answered = {}
    for name, case in cases.items():
        inputs = _reference_inputs(processor, case, image_token)
        length = inputs["input_ids"].shape[1]
        with torch.no_grad():
            logits = model(**inputs).logits[0].float().numpy()
            written = model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=count,
                eos_token_id=list(processor.eos_ids),
                pad_token_id=processor.pad_id,
            )
        is_text = inputs["input_ids"][0].numpy() != image_token
        answered[name] = Answer(
            logits=logits[is_text],
            tokens=cut_at_end(written[:, length:].numpy(), processor.eos_ids)[0],
        )
    return answered


def _reference_inputs(
    processor: Processor, case: Case, image_token: int
) -> dict[str, Any]:
    """Returns one prompt for transformers, with pixels of its own making."""
    import torch
    from transformers import LlavaOnevisionImageProcessorPil

    settings, layout = processor.prompts.images, case.sample.layout
    reference = LlavaOnevisionImageProcessorPil(
        size={"height": settings.tile_size, "width": settings.tile_size},
        image_mean=list(settings.mean),
        image_std=list(settings.std),
        image_grid_pinpoints=[list(point) for point in settings.pinpoints],
    )
    pictures = [Image.fromarray(picture) for picture in case.pictures]
    pixels = reference([pictures], return_tensors="np")
    ids = np.full((1, layout.length), image_token, np.int64)
    ids[0, layout.text_positions] = layout.tokens
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.ones(ids.shape, dtype=torch.long),
        **{name: torch.tensor(value) for name, value in pixels.items()},
    }


if __name__ == "__main__":
    command_line.run(main)
