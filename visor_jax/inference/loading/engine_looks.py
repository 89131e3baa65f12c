"""Which crops an engine's requests may be shown: those of all, and those they ask for.

An engine knows its programs ahead, so it is told at which crops requests will look;
what they choose among the tiles ("base+2:1,4") is no other program.
"""

import dataclasses
from collections.abc import Iterable

from visor_jax.data.look_buckets import for_looks
from visor_jax.data.prompts.looking import Looking
from visor_jax.data.prompts.processor import Processor
from visor_jax.inference.loading.network import Network
from visor_jax.look import Crops, crops_of


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EngineLooks:
    """How an engine shows images.

    processor: with the look of requests that say nothing, and buckets for all looks.
    asked: the looks that requests may ask for, by the name of as many crops of which
    nobody has chosen any.
    """

    processor: Processor
    asked: dict[str, Looking]


def engine_looks(
    network: Network, crops: object = None, asked: Iterable[object] = ()
) -> EngineLooks:
    """Returns how an engine of the network shows images.

    Args:
      crops: of requests that say nothing; None for what the network looks at. asked:
        crops that requests may ask for beside them; all crops they always may.

    Raises:
      ValueError: as `Network.looking_at`.
    """
    # With the buckets of whole images alone: a look brings a ladder, where it is one
    # request's, and an engine compiles what is in its buckets.
    whole = network.looking_at("all").processor
    shown = network if crops is None else network.looking_at(crops)
    common, looks = shown.processor.looking, {}
    for each in map(crops_of, asked):
        if not each.is_all:
            of_count = Crops(each.count)
            looks[of_count.name] = network.looking_at(of_count).processor.looking
    if common is not None:
        looks.setdefault(Crops(common.crops.count).name, common)
    if not looks:
        return EngineLooks(processor=whole, asked={})
    buckets = for_looks(whole.buckets, [each.crops for each in looks.values()])
    processor = dataclasses.replace(whole, looking=common, buckets=buckets)
    return EngineLooks(processor=processor, asked=looks)
