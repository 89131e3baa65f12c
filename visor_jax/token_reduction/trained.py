"""Networks that were trained with a method: which one, and whom they serve.

A network says it itself (`VLMConfig.trained_with`), so that a path alone is enough to
run it as it was trained. Methods without training run on any network that has no
parameters of another one.
"""

from collections.abc import Mapping

from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.token_reducer import KEEP_ALL, TokenReducer
from visor_jax.models.vlm import VLM
from visor_jax.token_reduction.registry import fitted, name_of, parse, reducer_of


def to_train_with(config: VLMConfig, name: str) -> VLMConfig:
    """Returns the network that a run with this method trains.

    Raises:
      ValueError: if there is no such method, the network has no place for it, or it
        goes by the question: rows of training hold several.
    """
    method = parse(name)
    method = getattr(method, "fitted", lambda config: method)(config)
    if method == KEEP_ALL:
        return config
    if method.reads_text:
        raise ValueError(
            f"model.reduce={name!r} goes by the question, and a row of training holds "
            "several: choose a method that reads the image alone "
            "(`python -m visor_jax.show.reducers`)."
        )
    if config.reading_layers:
        raise ValueError(
            f"model.reduce={name!r}: the reading loss has a label for every image "
            "token. Set model.reading_layers=() and objective.reading_weight=0."
        )
    return config.replace(
        trained_with=name_of(method), compressor=getattr(method, "compressor", None)
    )


def asked_reducer(said: str | TokenReducer | None) -> TokenReducer | None:
    """Returns the method that a caller asked for; None leaves it to the network.

    Raises:
      ValueError: as `registry.reducer_of`.
    """
    return None if said is None else reducer_of(said)


def own_reducer(config: VLMConfig) -> TokenReducer:
    """Returns the method that a network was trained with; `KEEP_ALL` for none."""
    if config.trained_with is None:
        return KEEP_ALL
    return fitted(parse(config.trained_with), config)


def reducer_for(asked: TokenReducer | None, config: VLMConfig) -> TokenReducer:
    """Returns the method for a network: what is asked for, else the network's own.

    Raises:
      ValueError: as `registry.fitted`.
    """
    return own_reducer(config) if asked is None else fitted(asked, config)


def check_one_reduction(reductions: Mapping[str, TokenReducer]) -> None:
    """Raises ValueError unless all networks of a report drop the same image tokens."""
    if len(set(reductions.values())) > 1:
        each = "; ".join(f"{path}: {name_of(one)}" for path, one in reductions.items())
        raise ValueError(
            "A report is about one reduction of image tokens, and these networks were "
            f"trained with several ({each}): evaluate them apart, or say --reduce for "
            "all of them."
        )


def as_trained(config: VLMConfig) -> VLM:
    """Returns the network with the method that it is trained with."""
    return VLM(config, own_reducer(config))


def drawn_in_training(model: VLM) -> tuple[VLM, ...]:
    """Returns the networks of which a training step takes one: mostly the only one."""
    drawn = getattr(model.reducer, "drawn", lambda: (model.reducer,))
    return tuple(VLM(model.config, each) for each in drawn())
