"""`python -m visor_jax.flops`: what every budget costs and saves, without any device.

    python -m visor_jax.flops --variant=llava_ov_0p5b --image_tokens=729,7353
    python -m visor_jax.flops --variant=mini --budgets=none,sa2:1,5,all --json
    python -m visor_jax.flops --variant=llava_ov_0p5b --image_tokens=7353 --cache
    python -m visor_jax.flops --looks=base/none,base+2/none,all/none --pictures=640x480

A budget is a name ("none", "all", "sa2:8,14") or a number n: n SELF layers, evenly
spread over those of the plan; "every" are all subsets. Budgets are separated by commas;
the count in "sa2:8,14" says how many of the numbers after it belong to it. A look names
crops before a budget (`visor_jax.look`).
"""

from absl import flags

from visor_jax.commands import command_line
from visor_jax.models.adapters import SHAPES, with_adapters

DEFAULT_VARIANTS = "llava_ov_0p5b,llava_ov_7b,mini"


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_string("variant", DEFAULT_VARIANTS, "Networks, separated by commas.")
    flags.DEFINE_string(
        "image_tokens",
        None,
        "Image tokens after tiling, separated by commas; default: 729,2929,7353 where "
        "the tower has 27 x 27 patches, else one crop.",
    )
    flags.DEFINE_string("text_tokens", "100", "Text tokens of the prompt.")
    flags.DEFINE_string(
        "crops",
        None,
        "Crops per image, one number or one per entry of --image_tokens; default: "
        "known for 729, 1485, 2929, 7353 and whole crops.",
    )
    flags.DEFINE_string(
        "budgets", None, "Names or numbers of SELF layers on; default: 0, 1, 2, ..."
    )
    flags.DEFINE_string(
        "logit_positions",
        "1",
        "Text positions with logits: 1 (default, all that a generation needs), more, "
        "or 'all' (training, evaluation).",
    )
    flags.DEFINE_enum(
        "adapters",
        None,
        SHAPES,
        "K/V heads of the adapters: the decoder's, or all; default: the network's.",
    )
    flags.DEFINE_integer(
        "projector_convolution",
        None,
        "Side of a convolution behind the projector, 0 for none; default: the "
        "variant's. (configs/universal.py trains mini with 3, its variant has none.)",
    )
    flags.DEFINE_bool(
        "cache",
        False,
        "Bytes of the KV cache instead; --text_tokens are then its text slots.",
    )
    flags.DEFINE_string(
        "looks",
        None,
        "Looks instead of budgets, e.g. base/none,base+2/none,all/none: crops, budget.",
    )
    flags.DEFINE_string(
        "pictures",
        "640x480,1152x1152,1700x2200",
        "With --looks: WIDTHxHEIGHT in pixels, separated by commas; how many crops and "
        "tokens a look sees depends on them.",
    )
    flags.DEFINE_bool("json", False, "Print one JSON object, plain FLOPs.")


if __name__ == "__main__":
    command_line.begin(define_flags)

import json
import re
from typing import Any

from visor_jax.budget import BudgetSet
from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.images.patch_index import anyres_patch_index
from visor_jax.flops import cache_bytes
from visor_jax.flops.looks import LookLengths, look_table
from visor_jax.flops.table import HEADER, Table, tabulate
from visor_jax.look import ALL, Crops, parse_looks
from visor_jax.models.config import VisionConfig, VLMConfig
from visor_jax.models.variants import variant, with_convolution

# Image tokens -> crops of LLaVA-OneVision's anyres tiling: a base crop and a grid, its
# padding cut off, a newline token after every row. 1485 is one crop's square, 2929 is
# 640 x 480 and 7353 is 1700 x 2200 pixels.
ANYRES_CROPS = {1485: 2, 2929: 5, 7353: 31}
ANYRES_IMAGE_TOKENS = (729, 2929, 7353)
ANYRES_PATCHES = 729


def main(arguments: list[str]) -> None:
    """Prints the tables. A user's mistake ends with code 2."""
    del arguments
    options = flags.FLAGS
    with command_line.user_errors():
        if options.cache:
            print("\n\n".join([cache_bytes.HEADER, *_cache_tables(options)]))
            return
        if options.looks is not None:
            print("\n\n".join(_look_tables(options)))
            return
        tables = _tables(options)
    if options.json:
        print(json.dumps({"counts": HEADER, "tables": [t.to_dict() for t in tables]}))
    else:
        print("\n\n".join([HEADER, *map(str, tables)]))


def _network(name: str, options: Any) -> VLMConfig:
    """Returns the variant with the adapters and the convolution that are asked for."""
    config = with_adapters(variant(name), options.adapters)
    return with_convolution(config, options.projector_convolution)


def _tables(options: Any) -> list[Table]:
    text_tokens = _whole_number("text_tokens", options.text_tokens, least=1)
    logit_positions = None
    if options.logit_positions != "all":
        logit_positions = _whole_number("logit_positions", options.logit_positions)
    tables = []
    for name in options.variant.split(","):
        config = _network(name, options)
        budgets = BudgetSet.parse(options.budgets, config.plan).budgets
        for image_tokens, crops in _images(options, config):
            table = tabulate(
                name,
                config,
                budgets,
                text_tokens=text_tokens,
                image_tokens=image_tokens,
                crops=crops,
                logit_positions=logit_positions,
            )
            tables.append(table)
    return tables


def _cache_tables(options: Any) -> list[str]:
    if options.json:
        raise ValueError("--cache prints tables only: leave --json out.")
    text_slots = _whole_number("text_tokens", options.text_tokens, least=1)
    return [
        cache_bytes.cache_table(
            name,
            config,
            BudgetSet.parse(options.budgets, config.plan).budgets,
            text_slots=text_slots,
            image_tokens=image_tokens,
        )
        for name in options.variant.split(",")
        for config in [_network(name, options)]
        for image_tokens, _ in _images(options, config)
    ]


def _look_tables(options: Any) -> list[str]:
    if options.json:
        raise ValueError("--looks prints tables only: leave --json out.")
    text_tokens = _whole_number("text_tokens", options.text_tokens, least=1)
    tables = []
    for name in options.variant.split(","):
        config = _network(name, options)
        looks = parse_looks(options.looks, config.plan)
        for picture in options.pictures.split(","):
            seen = [(k, _lengths(picture, k.crops, config.vision)) for k in looks]
            whole = _lengths(picture, ALL, config.vision)
            table = look_table(name, config, seen, whole, text_tokens=text_tokens)
            tables.append(table)
    return tables


def _lengths(picture: str, crops: Crops, vision: VisionConfig) -> LookLengths:
    """Returns what a look sees of a picture in grids of up to 6 x 6 tiles."""
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", picture)
    if match is None or not int(match[1]) * int(match[2]):
        raise ValueError(f"--pictures: {picture!r} is no WIDTHxHEIGHT in pixels.")
    width, height = int(match[1]), int(match[2])
    settings = ImageSettings.of_sizes(vision.image_size, vision.patch_size)
    index = anyres_patch_index(height, width, settings)
    looked = crops.of_image(index.crops)
    part, _ = index.of_crops(looked, settings.patches_per_crop)
    return LookLengths(crops=len(looked), image_tokens=part.count)


def _images(options: Any, config: VLMConfig) -> list[tuple[int, int]]:
    """Returns (image tokens, crops) of every image that is asked for."""
    vision = config.vision
    if options.image_tokens is not None:
        tokens = _whole_numbers("image_tokens", options.image_tokens)
    elif vision.num_patches == ANYRES_PATCHES:
        tokens = list(ANYRES_IMAGE_TOKENS)
    else:
        tokens = [vision.num_patches]
    if options.crops is None:
        return [(count, known_crops(count, vision)) for count in tokens]
    crops = _whole_numbers("crops", options.crops)
    if len(crops) == 1:
        crops *= len(tokens)
    if len(crops) != len(tokens):
        raise ValueError(
            f"--crops lists {len(crops)} numbers for {len(tokens)} image sizes."
        )
    return list(zip(tokens, crops, strict=True))


def known_crops(image_tokens: int, vision: VisionConfig) -> int:
    """Returns how many crops give that many image tokens.

    Raises:
      ValueError: if only the size of the picture could tell.
    """
    if vision.num_patches == ANYRES_PATCHES and image_tokens in ANYRES_CROPS:
        return ANYRES_CROPS[image_tokens]
    crops, rest = divmod(image_tokens, vision.num_patches)
    if rest:
        raise ValueError(
            f"{image_tokens} image tokens are no known picture for crops of "
            f"{vision.num_patches} patches: say how many with --crops."
        )
    return crops


def _whole_numbers(option: str, text: str) -> list[int]:
    return [_whole_number(option, part) for part in text.split(",")]


def _whole_number(option: str, text: str, least: int = 0) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
        raise ValueError(f"--{option}: {text!r} is no whole number from {least} on.")
    return int(text)


if __name__ == "__main__":
    command_line.run(main)
