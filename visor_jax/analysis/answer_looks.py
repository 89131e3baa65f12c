"""Where the CROSS layers look for each token of an answer, and what the answer costs.

    question        an image, "What is it ?"         the answer  a  cat
    text that looks  ...                     ?            a
    writes                                   a            cat

The answer is put behind its question, as it was when it was written, and the token
before each of its own is asked where it looks (`cross_attention_maps` asks the first
alone). Times are measured, of the answer's budget and of the dense network of the same
sizes: the same parameters without adapters, every layer's own attention over image and
text. What that network would say is of no meaning, how long it takes is.
"""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from visor_jax.analysis.cross_attention_maps import check_keeps_all
from visor_jax.analysis.image_places import ImagePlaces
from visor_jax.budget import Budget, BudgetSet
from visor_jax.data.images.read_image import read_image
from visor_jax.data.prompts.messages import media
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.sample import Sample
from visor_jax.inference.generation.cross_looks import cross_looks
from visor_jax.inference.generation.generate import Latency
from visor_jax.inference.visor_model import VisorModel
from visor_jax.look_cascade import is_look_cascade
from visor_jax.models.variants import dense

_LEVELS = 255
# Of an answer; lengths are rounded up to powers of two.
MOST_TOKENS = 256
_ROUNDS = 3


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AnswerLooks:
    """Maps of one answer over its image, of all crops together.

    tokens: texts of the answer's. layers: the CROSS layers. maps: from 0 to 255, which
    is the layer's largest value. most: that value, a share of a token's look. shown:
    how much of a layer's look, in the mean over tokens, lies in the image; the rest is
    on padding and on learned newlines.
    """

    tokens: tuple[str, ...]
    layers: tuple[int, ...]
    maps: UInt8[np.ndarray, "L N rows columns"]
    most: tuple[float, ...]
    shown: tuple[float, ...]


def answer_looks(
    model: VisorModel, request: Request, answer: str, budget: str
) -> AnswerLooks:
    """Returns where every CROSS layer looks for every token of an answer.

    Args:
      request: about exactly one image. answer: its text, as the model wrote it.
      budget: in which.

    Raises:
      ValueError: for a network without CROSS layers, or one that drops image tokens; an
        answer without tokens, or more than MOST_TOKENS; a request about other than one
        image, or what `generate` would refuse.
    """
    model = _shown_crops(model, request)
    check_keeps_all(model.network)
    if not model.config.plan.cross_layers:
        raise ValueError(
            "This network has no CROSS layers whose look could be shown: load one "
            "with adapters (python -m visor_jax.convert --plan=visor)."
        )
    tokens = _tokens(model, answer)
    prompt = model.processor.sample(request, room=len(tokens))
    if [kind for kind, _ in prompt.layout.media] != ["image"]:
        raise ValueError("Looks are shown over exactly one image: ask about one.")
    batch = model.processor.batch(_continued(prompt, tokens))
    # The token before each; filled up, so that there are few programs.
    first = prompt.num_text_tokens - 1
    rows = first + np.arange(_rounded_up(len(tokens)), dtype=np.int32)
    rows = np.minimum(rows, first + len(tokens) - 1)[None]
    gates = model.budget(budget).gates(model.config.plan)
    found = cross_looks(model.params, batch, rows, model=model.vlm, gates=gates)
    places = _places(model, request, prompt)
    maps = np.stack(
        [
            [places.map(look, batch, 0) for look in looks]
            for looks in (np.asarray(each)[0, : len(tokens)] for each in found.values())
        ]
    )
    most = np.maximum(maps.max(axis=(1, 2, 3)), np.finfo(np.float32).tiny)
    levels = np.rint(maps / most[:, None, None, None] * _LEVELS).astype(np.uint8)
    return AnswerLooks(
        tokens=tuple(model.processor.text([int(token)]) for token in tokens),
        layers=tuple(found),
        maps=levels,
        most=tuple(most.tolist()),
        shown=tuple(maps.sum(axis=(2, 3)).mean(axis=1).tolist()),
    )


def answer_times(
    model: VisorModel, request: Request, budget: str, *, new_tokens: int
) -> dict[str, Latency]:
    """Returns the milliseconds of a request alone: of "budget", and of "dense".

    Medians of several rounds, in which both take turns: whatever else the machine does
    meets both.

    Raises:
      ValueError: as `VisorModel.batch` and `latency`.
    """
    model = _shown_crops(model, request)
    batch = model.processor.batch(model.processor.sample(request, room=new_tokens))
    config = dense(model.config)
    everything = Budget.all(config.plan)
    network = dataclasses.replace(
        model.network,
        config=config,
        budgets=BudgetSet.parse([everything.name], config.plan),
        policy=None,
    )
    asked = {"budget": (model, budget), "dense": (VisorModel(network), everything)}
    rounds = [
        {
            name: each.latency(batch, at, max_new_tokens=new_tokens)
            for name, (each, at) in asked.items()
        }
        for _ in range(_ROUNDS)
    ]
    return {name: _median([each[name] for each in rounds]) for name in asked}


def _shown_crops(model: VisorModel, request: Request) -> VisorModel:
    """Returns the model that looks at the crops which the request names, if any.

    Raises ValueError for those of a cascade.
    """
    crops = request.options.crops
    if is_look_cascade(crops):
        raise ValueError(
            f"crops={crops!r} look once or twice: say which crops the answer saw in "
            "the end, 'base' or 'all'."
        )
    return model if crops is None else VisorModel(model.network.looking_at(crops))


def _places(model: VisorModel, request: Request, prompt: Sample) -> ImagePlaces:
    """Returns where the crops of a request's only image lie in it."""
    carried = media(request.messages(), "image", fetch=model.processor.prompts.fetch)
    (image,) = carried or request.images or ()
    pixels = read_image(image, fetch=model.processor.prompts.fetch)
    settings = model.processor.buckets.image_settings
    crops = range(prompt.num_crops) if prompt.looked_at is None else prompt.looked_at
    return ImagePlaces.of(*pixels.shape[:2], settings, crops=crops)


def _median(measured: Sequence[Latency]) -> Latency:
    return Latency(
        prefill=statistics.median(each.prefill for each in measured),
        per_token=statistics.median(each.per_token for each in measured),
    )


def _tokens(model: VisorModel, answer: str) -> Int32[np.ndarray, "N"]:
    tokens = model.tokenizer.encode(answer, add_special_tokens=False)
    if not 0 < len(tokens) <= MOST_TOKENS:
        raise ValueError(
            f"The answer has {len(tokens)} tokens: looks are shown of 1 to "
            f"{MOST_TOKENS}."
        )
    return np.array(tokens, np.int32)


def _rounded_up(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _continued(prompt: Sample, tokens: Int32[np.ndarray, "N"]) -> Sample:
    """Returns the prompt with an answer behind it."""
    layout, count = prompt.layout, len(tokens)
    positions = layout.length + np.arange(count, dtype=np.int32)
    longer: dict[str, Any] = {
        "tokens": np.concatenate([layout.tokens, tokens]),
        "text_positions": np.concatenate([layout.text_positions, positions]),
        "targets": np.pad(layout.targets, (0, count)),
        "loss_mask": np.pad(layout.loss_mask, (0, count)),
    }
    return dataclasses.replace(prompt, layout=dataclasses.replace(layout, **longer))
