"""Makes the processor of a network from the files that lie beside its weights."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visor_jax.data.buckets import Buckets
from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.images.patch_index import square_patch_index, video_patch_index
from visor_jax.data.prompts.chat_processor import ChatProcessor
from visor_jax.data.prompts.chat_template import built_in
from visor_jax.data.prompts.generation_config import (
    GENERATION,
    read_generation_config,
    say_what_is_not_done,
)
from visor_jax.data.prompts.messages import IMAGE, VIDEO
from visor_jax.data.prompts.processor import Processor, Tokenizer
from visor_jax.data.prompts.stop_tokens import EndTokens, end_tokens
from visor_jax.data.prompts.token_layout import placeholder_ids
from visor_jax.data.prompts.tokenizer import load_tokenizer
from visor_jax.models.config import VLMConfig
from visor_jax.runtime.json_object import read_json_object
from visor_jax.runtime.lfs_pointer import check_not_pointer

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
# Where a chat template may stand, in the order of transformers.
_TEMPLATE_FILE = "chat_template.jinja"
_TEMPLATE_FIELDS = ("chat_template.json", PROCESSOR)
# What the original weights were trained with, whose folders have no template.
_ORIGINAL_TEMPLATE = "qwen_1_5"
_TEXT_LENGTHS = (64, 128, 256, 1024, 2048, 4096, 8192, 16384)
# Of an answer, by default.
_NEW_TOKENS = 256
# Scale of the tower's pixels.
_SIGLIP = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}

_logger = logging.getLogger(__name__)


def read_processor(
    config: VLMConfig,
    folder: Path,
    *,
    source: Mapping[str, Any] | None = None,
    template: str | None = None,
    special_tokens: str = "plain",
) -> Processor:
    """Returns the processor of a LLaVA-OneVision.

    Args:
      folder: with the files of its tokenizer and processor.
      source: its config.json; None if the network was not imported.
      template: of the chat: "hub", "qwen_1_5" or the text of a Jinja template; None
        for the folder's own, or "qwen_1_5" if it has none.
      special_tokens: in the texts of messages, one of `prompt_tokens.SPECIAL_TOKENS`.

    Raises:
      ValueError: if files are missing or damaged, or ask for what is not supported.
    """
    tokenizer = _tokenizer(folder)
    say_what_is_not_done(folder)
    if template is None:
        template = _chat_template(folder, tokenizer)
    eos = _end_of_answer(folder, source or {}, tokenizer)
    _check_places(tokenizer, folder, source or {})
    settings = _image_settings(config, folder, source)
    prompts = ChatProcessor(
        tokenizer=tokenizer,
        images=settings,
        template=template,
        max_length=config.decoder.max_positions,
        special_tokens=special_tokens,
    )
    return Processor(
        prompts=prompts,
        buckets=_buckets(settings, config, pad_id=_pad_id(tokenizer, eos)),
        eos_ids=end_tokens(eos),
        pad_id=_pad_id(tokenizer, eos),
        new_tokens=_NEW_TOKENS,
    )


def _tokenizer(folder: Path) -> Tokenizer:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        check_not_pointer(folder / name)
    try:
        tokenizer = load_tokenizer(folder)
    # What is missing or damaged raises classes of several libraries.
    except Exception as error:
        raise ValueError(
            f"{folder} has no tokenizer that can be read ({error!s:.200}): it needs "
            "tokenizer.json and tokenizer_config.json of the checkpoint."
        ) from error
    # Original folders have the tokenizer of the language model alone. The places get
    # no embeddings: they are taken out of the text.
    lacking = [t for t in (IMAGE, VIDEO) if t not in tokenizer.get_added_vocab()]
    tokenizer.add_tokens(lacking, special_tokens=True)
    return tokenizer


def _chat_template(folder: Path, tokenizer: Tokenizer) -> str:
    """Returns the folder's template, by name where it is one of ours."""
    found = None
    if (folder / _TEMPLATE_FILE).is_file():
        found = (folder / _TEMPLATE_FILE).read_text()
    for name in _TEMPLATE_FIELDS:
        found = found or _json(folder / name).get("chat_template")
    found = found or tokenizer.chat_template
    if found is None:
        return _ORIGINAL_TEMPLATE
    if not isinstance(found, str):
        raise ValueError(
            f"{folder} has several chat templates: name one, chat_template='hub' or "
            "the text of one of them."
        )
    return built_in(found)


def _end_of_answer(
    folder: Path, source: Mapping[str, Any], tokenizer: Tokenizer
) -> EndTokens:
    stated = (
        read_generation_config(folder).get("eos_token_id"),
        (source.get("text_config") or {}).get("eos_token_id"),
        tokenizer.eos_token_id,
    )
    for eos in stated:
        if eos is not None:
            return eos
    raise ValueError(
        f"{folder}: neither {GENERATION} nor config.json nor the tokenizer says which "
        "token ends an answer."
    )


def _check_places(
    tokenizer: Tokenizer, folder: Path, source: Mapping[str, Any]
) -> None:
    """Raises ValueError unless configuration and tokenizer mean the same tokens."""
    for kind, found in placeholder_ids(tokenizer).items():
        stated = source.get(
            f"{kind}_token_index", source.get(f"{kind}_token_id", found)
        )
        if stated != found:
            raise ValueError(
                f"{folder}: the place of an {kind} is token {stated} in config.json "
                f"but {found} in the tokenizer: they do not belong together."
            )


def _json(file: Path) -> dict[str, Any]:
    """Returns the object in a file, {} where there is no file."""
    return read_json_object(file) if file.is_file() else {}


def _image_settings(
    config: VLMConfig, folder: Path, source: Mapping[str, Any] | None
) -> ImageSettings:
    vision = config.vision
    sides = [vision.image_size * count for count in range(1, 7)]
    fields = {
        # The default of transformers, which leaves defaults out of the files it writes.
        "image_grid_pinpoints": [
            [rows, columns] for rows in sides for columns in sides
        ],
        **(source or {}),
        "vision_config": {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
        },
    }
    processor = _json(folder / PREPROCESSOR) or _json(folder / PROCESSOR)
    if not processor:
        # Folders of the original code have neither file.
        _logger.warning(
            "%s has no %s and no %s: pixels are scaled as SigLIP's (image_mean and "
            "image_std 0.5), resized with its rules; copy the file from the checkpoint "
            "if it was trained otherwise",
            folder,
            PREPROCESSOR,
            PROCESSOR,
        )
    return ImageSettings.from_hf(fields, processor or _SIGLIP)


def _pad_id(tokenizer: Tokenizer, eos: EndTokens) -> int:
    pad = tokenizer.pad_token_id
    return end_tokens(eos)[0] if pad is None else pad


def _buckets(settings: ImageSettings, config: VLMConfig, *, pad_id: int) -> Buckets:
    """Returns a ladder up to whatever the context can hold."""
    most = config.decoder.max_positions
    texts = [length for length in _TEXT_LENGTHS if length < most]
    return Buckets.ladder(
        settings,
        pad_id=pad_id,
        text_tokens=(*texts, most),
        max_images=most // square_patch_index(settings).count,
        max_frames=most // video_patch_index(1, settings).count,
    )
