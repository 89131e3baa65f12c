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
from visor_jax.token_reduction.pooled.ldpv2 import LDPv2
from visor_jax.token_reduction.pooled.lower_resolution import LowerResolution
from visor_jax.token_reduction.pooled.m3 import M3
from visor_jax.token_reduction.pooled.visor_tr import RowPacking, RowPooling
from visor_jax.token_reduction.pyramid_drop import PyramidDrop
from visor_jax.token_reduction.setting_values import (
    Setting,
    read_value,
    settings_of,
    shown_value,
)
from visor_jax.token_reduction.sparsevlm import SparseVLM
from visor_jax.token_reduction.sparsevlm_plus import SparseVLMPlus
from visor_jax.token_reduction.two_stages.sts import STS
from visor_jax.token_reduction.two_stages.todre import ToDREBothStages
from visor_jax.token_reduction.two_stages.vscan import VScanBothStages

NONE = "none"
# Settings of which a method takes one.
_BUDGETS = ("keep", "average", "llm_flops")
INSIDE, BEFORE = "between decoder layers", "before the decoder"
BOTH = "before the decoder and between its layers"


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
    "sparsevlm+": Entry(
        SparseVLMPlus, "Zhang et al., ICML 2025, arXiv 2410.04417, code 2.0", INSIDE
    ),
    "sts": Entry(STS, "after Wang et al., arXiv 2606.03569v1", BOTH),
    "todre": Entry(ToDREBothStages, "arXiv 2505.18757", BOTH),
    "vscan": Entry(VScanBothStages, "Zhang et al., TMLR 2026, arXiv 2505.22654", BOTH),
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
    "lower_resolution": Entry(LowerResolution, "a control", BEFORE),
    "visor_tr": Entry(RowPooling, "after VISOR-TR, by the mean", BEFORE),
    "visor_tr_packing": Entry(
        RowPacking, "after VISOR-TR, by learned packing", BEFORE, is_trained=True
    ),
    "m3": Entry(M3, "Cai et al., ICLR 2025, arXiv 2405.17430", BEFORE, is_trained=True),
    "ldpv2": Entry(
        LDPv2, "Chu et al., 2024, arXiv 2402.03766", BEFORE, is_trained=True
    ),
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
      ValueError: if the network has no such layers, or was not trained with a method
        that needs it.
    """
    fit = getattr(reducer, "fitted", None)
    try:
        method = reducer if fit is None else fit(config)
        method = _with_network(method, config)
    except ValueError as error:
        raise ValueError(f"{name_of(reducer)}: {error}") from error
    _check_trained(method, config)
    return method


def _check_trained(method: TokenReducer, config: VLMConfig) -> None:
    """Raises ValueError for weights that know nothing of a method, or of no other."""
    with_ = config.trained_with
    own = KEEP_ALL if with_ is None else parse(with_)
    said = "without any" if with_ is None else f"with {with_}"
    if getattr(method, "needs_training", False):
        if type(own) is not type(method) or not method.serves(own):
            raise ValueError(
                f"{name_of(method)} is for weights that were trained with it, and "
                f"these were trained {said}: train some (configs/token_reduction), "
                "or choose a training-free method."
            )
    elif config.compressor is not None:
        raise ValueError(
            f"{name_of(method)}: these weights were trained {said}, whose parameters "
            "make their image tokens: leave the reduction to the network."
        )


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
