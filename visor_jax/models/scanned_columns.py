"""Which layers a training step goes through as one body, by the names of their
parameters.

    vision_tower/encoder    layers_0 layers_1 layers_2 ...
    language_model          layers_0 layers_3 layers_6 ...
    language_model          layers_1 layers_4 layers_7 ...

One line each is a column: layers of the same shape, in the order in which they run.
"""

from visor_jax.layer_plan import RepeatedLayers
from visor_jax.models.config import ENTRY
from visor_jax.models.decoder.token_reducer import KEEP_ALL
from visor_jax.models.stacked_layers import is_scanned
from visor_jax.models.vlm import VLM

# Paths of the layers' parameters.
Column = tuple[str, ...]


def repeated_in_training(model: VLM) -> RepeatedLayers | None:
    """Returns the decoder's layers that a training step scans where it may scan any.

    None where it looks between them, or drops image tokens there.
    """
    c = model.config
    looks_between = set(c.reading_layers) - {ENTRY}
    if looks_between or model.reducer.stages:
        return None
    return c.plan.repeated(0, c.plan.num_layers)


def scanned_columns(model: VLM) -> tuple[Column, ...]:
    """Returns the columns of a training step on the platform in context.

    None for a network that is trained with a method of token reduction: what that
    reads of the tower is written out.
    """
    c = model.config
    if not is_scanned(c.scan_layers) or model.reducer != KEEP_ALL:
        return ()
    blocks, columns = range(c.vision.num_layers), []
    if len(blocks) > 1:
        columns.append(_paths("vision_tower/encoder", blocks))
    repeated = repeated_in_training(model)
    if repeated is not None:
        columns += [
            _paths("language_model", repeated.column(place))
            for place in range(len(repeated.kinds))
        ]
    return tuple(columns)


def _paths(module: str, layers: range) -> Column:
    return tuple(f"{module}/layers_{layer}" for layer in layers)
