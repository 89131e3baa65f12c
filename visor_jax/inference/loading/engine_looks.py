"""Which crops an engine's requests may be shown: those of all, and those they ask for.

An engine knows its programs ahead, so it is told at which crops requests will look;
what they choose among the tiles ("base+2:1,4") is no other program, nor what the
network chooses ("best+2"), but for its own look at the base view. Those of a cascade
("auto@0.8") are the base view's and those of all crops, whatever its threshold.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from visor_jax.data.look_buckets import for_looks
from visor_jax.data.prompts.looking import Looking
from visor_jax.data.prompts.processor import Processor
from visor_jax.inference.loading.network import Network
from visor_jax.look import BASE, Crops, crops_of
from visor_jax.look_cascade import (
    AUTO_LOOK,
    LookCascade,
    is_look_cascade,
    look_name,
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EngineLooks:
    """How an engine shows images.

    processor: with the look of requests that say nothing, and buckets for all looks.
    asked: the looks that requests may ask for, by the name of as many crops of which
    nobody has chosen any; "auto" is the base view of those that look twice. cascade: of
    requests that say nothing, if they do.
    """

    processor: Processor
    asked: dict[str, Looking]
    cascade: LookCascade | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What an engine is told of it, beside the processor."""
        return {"looks": self.asked, "look_cascade": self.cascade}


def engine_looks(
    network: Network, crops: object = None, asked: Iterable[object] = ()
) -> EngineLooks:
    """Returns how an engine of the network shows images.

    Args:
      crops: of requests that say nothing; None for what the network looks at. asked:
        crops that requests may ask for beside them; all crops they always may. One
        cascade stands for those of any threshold.

    Raises:
      ValueError: as `Network.looking_at` and `LookCascade.of_name`.
    """
    asked, cascade = list(asked), None
    if is_look_cascade(crops):
        cascade = LookCascade.of_name(look_name(crops))
        crops, asked = "all", [*asked, cascade]
    # With the buckets of whole images alone: a look brings a ladder, where it is one
    # request's, and an engine compiles what is in its buckets.
    whole = network.looking_at("all").processor
    shown = network if crops is None else network.looking_at(crops)
    common = shown.processor.looking
    looks = {
        name: network.looking_at(crops).processor.looking
        for name, crops in _by_name(asked).items()
    }
    if common is not None:
        looks.setdefault(common.crops.unlisted.name, common)
    if not looks:
        return EngineLooks(processor=whole, asked={})
    buckets = for_looks(whole.buckets, [each.crops for each in looks.values()])
    processor = dataclasses.replace(whole, looking=common, buckets=buckets)
    return EngineLooks(processor=processor, asked=looks, cascade=cascade)


def _by_name(asked: Iterable[object]) -> dict[str, Crops]:
    """Returns how many crops to be ready for, by what requests call them."""
    found = {}
    for each in asked:
        if is_look_cascade(each):
            # Of no cascade the error comes before any work.
            look_name(each)
            found[AUTO_LOOK] = BASE
        elif not (crops := crops_of(each)).is_all:
            # What the network chooses may be listed as well: it is the same program.
            for each in (crops.unlisted, Crops(crops.count)):
                found[each.name] = each
    return found
