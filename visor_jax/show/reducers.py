"""`python -m visor_jax.show.reducers`: every method of token reduction.

    python -m visor_jax.show.reducers [--image_tokens=729] [--layers=24]

Prints each method's name for --reduce, where its paper is, where it works, what it does
to rotary positions, its settings with their defaults, and how many image tokens each
layer sees, in the mean and layer by layer.
"""

from absl import flags

from visor_jax.commands import command_line


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_integer("image_tokens", 729, "Of the example.", lower_bound=1)
    flags.DEFINE_integer("layers", 24, "Of the example's network.", lower_bound=1)


if __name__ == "__main__":
    command_line.begin(define_flags)

import dataclasses
import inspect
import itertools

from visor_jax.layer_plan import LayerPlan
from visor_jax.models.config import VLMConfig
from visor_jax.models.variants import variant
from visor_jax.token_reduction.registry import (
    REDUCERS,
    Entry,
    fitted,
    name_of,
    parse,
)
from visor_jax.token_reduction.setting_values import Setting, shown_value
from visor_jax.token_reduction.trained import to_train_with

USAGE = (
    "--reduce=NAME or --reduce=NAME:setting=value,setting=value in generate, answer\n"
    "and evaluate; visor_jax.load(..., reduce=...) in Python. A setting of several\n"
    "numbers has + between them."
)


def table(image_tokens: int, layers: int) -> str:
    """Returns what is printed: some lines for each method.

    Args:
      image_tokens, layers: of the example.
    """
    config = dataclasses.replace(variant("llava_ov_0p5b"), plan=LayerPlan.dense(layers))
    parts = [USAGE]
    parts += [_lines(name, REDUCERS[name], image_tokens, config) for name in REDUCERS]
    return "\n\n".join(parts)


def _lines(name: str, entry: Entry, image_tokens: int, config: VLMConfig) -> str:
    trained = "trained" if entry.is_trained else "training-free"
    facts = {
        "source": entry.source,
        "works": f"{entry.where}, {trained}",
        "settings": ", ".join(map(_setting, entry.settings)) or "none",
    }
    try:
        # As if the network had been trained with it, where that is needed.
        trained = to_train_with(config, name) if entry.is_trained else config
        method = fitted(parse(name), trained)
        reads = "the question" if method.reads_text else "the image alone"
        facts["reads"] = reads
        facts["positions"] = method.position_rule.value
        facts["example"] = _example(method, image_tokens, config.plan.num_layers)
    except ValueError as error:
        # It has settings without a default, or no place in so few layers.
        facts["example"] = str(error)
    title = inspect.getdoc(inspect.getmodule(entry.method)).partition("\n")[0]
    meaning = inspect.getdoc(entry.method).splitlines()
    lines = [f"{name}", f"  {title}", *(f"  {k:<10} {v}" for k, v in facts.items())]
    return "\n".join([*lines, *(f"    {line}".rstrip() for line in meaning)])


def _setting(setting: Setting) -> str:
    if setting.default is dataclasses.MISSING:
        return f"{setting.name} (needed)"
    return f"{setting.name}={shown_value(setting.default)}"


def _example(method: object, image_tokens: int, layers: int) -> str:
    lengths = method.image_lengths(image_tokens, layers)
    spans, begun = [], 0
    for length, group in itertools.groupby(lengths):
        end = begun + len(list(group))
        spans.append(f"{length} in {begun}-{end - 1}")
        begun = end
    mean = sum(lengths) / layers
    return f"{name_of(method)}: {mean:.4g} of {image_tokens} ({', '.join(spans)})"


def main(arguments: list[str]) -> None:
    """Prints the methods."""
    del arguments
    print(table(flags.FLAGS.image_tokens, flags.FLAGS.layers))


if __name__ == "__main__":
    command_line.run(main)
