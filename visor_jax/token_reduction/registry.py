"""All methods of token reduction by name, and what is said of them in one line.

    fastv:layer=2,keep=0.25            a method and its settings
    pyramiddrop:ratios=0.4+0.2+0.1     several numbers with +
    none                               every token stays

A method is a frozen dataclass; its settings are the fields of plain types that are not
the protocol's own. One line in `REDUCERS` adds it.
"""

import dataclasses
import difflib
from typing import Any

from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.token_reducer import KEEP_ALL, TokenReducer
from visor_jax.token_reduction.crops.controls import BaseView, Random, Uniform
from visor_jax.token_reduction.crops.divprune import DivPrune
from visor_jax.token_reduction.crops.fastervlm import FasterVLM
from visor_jax.token_reduction.crops.hired import HiRED
from visor_jax.token_reduction.crops.prumerge import PruMerge, PruMergePlus
from visor_jax.token_reduction.crops.repulsion import Repulsion
from visor_jax.token_reduction.crops.todre import ToDRE
from visor_jax.token_reduction.crops.visionzip import VisionZip
from visor_jax.token_reduction.crops.vispruner import VisPruner
from visor_jax.token_reduction.crops.vscan import VScan
from visor_jax.token_reduction.fastv import FastV
from visor_jax.token_reduction.pyramid_drop import PyramidDrop
from visor_jax.token_reduction.setting_values import (
    Setting,
    read_value,
    settings_of,
    shown_value,
)
from visor_jax.token_reduction.sparsevlm import SparseVLM

NONE = "none"
# Settings of which a method takes one.
_BUDGETS = ("keep", "average", "llm_flops")
INSIDE, BEFORE = "between decoder layers", "before the decoder"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One method.

    method: its class. source: the paper. where: it works. is_trained: whether it has
    parameters or needs a training of its own.
    """

    method: type
    source: str
    where: str
    is_trained: bool = False

    @property
    def settings(self) -> tuple[Setting, ...]:
        """What can be said of the method, in the order of its fields."""
        return settings_of(self.method)


REDUCERS: dict[str, Entry] = {
    "fastv": Entry(FastV, "Chen et al., ECCV 2024, arXiv 2403.06764", INSIDE),
    "pyramiddrop": Entry(
        PyramidDrop, "Xing et al., CVPR 2025, arXiv 2410.17247", INSIDE
    ),
    "sparsevlm": Entry(SparseVLM, "Zhang et al., ICML 2025, arXiv 2410.04417", INSIDE),
    "fastervlm": Entry(FasterVLM, "Zhang et al., 2024, arXiv 2412.01818v1", BEFORE),
    "visionzip": Entry(VisionZip, "Yang et al., CVPR 2025, arXiv 2412.04467", BEFORE),
    "vispruner": Entry(
        VisPruner, "Zhang et al., ICCV 2025, arXiv 2412.01818v2", BEFORE
    ),
    "hired": Entry(HiRED, "Arif et al., AAAI 2025, arXiv 2408.10945", BEFORE),
    "prumerge": Entry(PruMerge, "Shang et al., ICCV 2025, arXiv 2403.15388", BEFORE),
    "prumerge+": Entry(
        PruMergePlus, "Shang et al., ICCV 2025, arXiv 2403.15388", BEFORE
    ),
    "divprune": Entry(DivPrune, "Alvar et al., CVPR 2025, arXiv 2503.02175", BEFORE),
    "todre_stage1": Entry(ToDRE, "arXiv 2505.18757, its first stage", BEFORE),
    "vscan_stage1": Entry(
        VScan, "Zhang et al., TMLR 2026, arXiv 2505.22654, its first stage", BEFORE
    ),
    "repulsion": Entry(
        Repulsion, "after STS, Wang et al., arXiv 2606.03569v1, its first stage", BEFORE
    ),
    "random": Entry(Random, "a control", BEFORE),
    "uniform": Entry(Uniform, "a control", BEFORE),
    "base_view": Entry(BaseView, "a control", BEFORE),
}


def parse(spec: str) -> TokenReducer:
    """Returns the method that a text names, with its settings.

    Raises:
      ValueError: for an unknown method or setting, with the nearest names and those
        that there are; for a value of another type; for one that the method refuses.
    """
    name, colon, rest = spec.strip().partition(":")
    if name == NONE and not rest:
        return KEEP_ALL
    if name not in REDUCERS:
        raise ValueError(
            f"Unknown token reduction {name!r}{_nearest(name, REDUCERS)}: there are "
            f"{', '.join([NONE, *REDUCERS])} (`python -m visor_jax.show.reducers`)."
        )
    if colon and not rest:
        raise ValueError(f"{spec!r} names no setting behind the colon.")
    known = {setting.name: setting for setting in REDUCERS[name].settings}
    values: dict[str, Any] = {}
    for part in rest.split(",") if rest else ():
        key, equals, text = part.partition("=")
        if not equals:
            raise ValueError(f"{spec!r}: {part!r} is not of the form setting=value.")
        if key not in known:
            raise ValueError(
                f"{name} has no setting {key!r}{_nearest(key, known)}: there are "
                f"{', '.join(known) or 'none'}."
            )
        if key in values:
            raise ValueError(f"{spec!r} says {key} twice.")
        values[key] = read_value(known[key], text)
    budgets = [key for key in _BUDGETS if values.get(key) is not None]
    if len(budgets) > 1:
        raise ValueError(
            f"{spec!r}: {' and '.join(budgets)} each say how many tokens stay: give "
            "one of them."
        )
    try:
        return REDUCERS[name].method(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{spec!r}: {error}") from error


def name_of(reducer: TokenReducer) -> str:
    """Returns the text that `parse` makes this method of; "none" for `KEEP_ALL`.

    Settings that are at their defaults are left out. What is not in the registry is
    named by its `repr`.
    """
    if reducer == KEEP_ALL:
        return NONE
    for name, entry in REDUCERS.items():
        if type(reducer) is entry.method:
            said = [
                f"{setting.name}={shown_value(getattr(reducer, setting.name))}"
                for setting in entry.settings
                if not setting.is_default(getattr(reducer, setting.name))
            ]
            return f"{name}:{','.join(said)}" if said else name
    return repr(reducer)


def fitted(reducer: TokenReducer, config: VLMConfig) -> TokenReducer:
    """Returns the method for a network: stages and budgets may depend on its sizes.

    Raises:
      ValueError: if the network has no such layers.
    """
    fit = getattr(reducer, "fitted", None)
    try:
        found = reducer if fit is None else fit(config)
        return _with_network(found, config)
    except ValueError as error:
        raise ValueError(f"{name_of(reducer)}: {error}") from error


def _with_network(reducer: TokenReducer, config: VLMConfig) -> TokenReducer:
    """Returns the method that knows the network that its budget is solved for."""
    budgets = (getattr(reducer, name, None) for name in ("average", "llm_flops"))
    if all(budget is None for budget in budgets):
        return reducer
    return dataclasses.replace(reducer, network=config)


def reducer_of(said: str | TokenReducer | None) -> TokenReducer:
    """Returns the method that a caller gave: a text, a method, None for none.

    Raises:
      ValueError: as `parse`; for anything else.
    """
    if said is None:
        return KEEP_ALL
    if isinstance(said, str):
        return parse(said)
    if isinstance(said, TokenReducer):
        return said
    raise ValueError(
        f"reduce={said!r} is no token reduction: give a text such as 'fastv:keep=0.25' "
        "or a `TokenReducer`."
    )


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=2, cutoff=0.5)
    return f" (nearest: {', '.join(close)})" if close else ""
