"""The flags of the commands that answer, and what they stand for.

Which network (`define_network_flags`, `load_network`) and how it answers
(`define_answer_flags`, `sampling_of`, `random_key`); one definition for all commands.
Declaring them loads nothing heavy.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from visor_jax.commands.start_line import say_start
from visor_jax.data.prompts.chat_template import TEMPLATES
from visor_jax.models.config import COMPUTE_DTYPES
from visor_jax.runtime.arguments import LEAST_SEED, MOST_SEED

if TYPE_CHECKING:
    from jax.sharding import Mesh
    from jaxtyping import Array, Key

    from visor_jax.data.buckets import Bucket, Buckets
    from visor_jax.data.prompts.sampling import Sampling
    from visor_jax.inference.engine.engine_config import EngineConfig
    from visor_jax.inference.visor_model import VisorModel


def define_network_flags() -> None:
    """Declares which network answers, and in what form it is read."""
    flags.DEFINE_string("checkpoint", None, "Checkpoint or Hub id.", required=True)
    flags.DEFINE_string("revision", None, "Of a Hub id: branch, tag or commit.")
    flags.DEFINE_enum("dtype", None, COMPUTE_DTYPES, "Default: as stored.")
    flags.DEFINE_enum(
        "chat_template", None, sorted(TEMPLATES), "Default: the checkpoint's."
    )
    flags.DEFINE_list(
        "allow_hosts",
        [],
        "Hosts that images and videos may be fetched from by URL: 'img.example.org', "
        "'*.example.org', ...; default: none.",
    )
    define_reduce_flag()
    define_mesh_flag()


def define_mesh_flag() -> None:
    """Declares over which devices a network is split."""
    flags.DEFINE_string(
        "mesh",
        None,
        "Split it over all devices, DATA,FSDP,TENSOR: prompts and slots over data and "
        "fsdp, parameters over fsdp and tensor; one may be -1. Default: one device.",
    )


def mesh_of(options: Any) -> "Mesh | None":
    """Returns the mesh that the flags ask for, None for one device.

    Raises:
      ValueError: for what is no mesh, or does not fit the devices.
    """
    if options.mesh is None:
        return None
    from visor_jax.sharding.mesh import MeshSettings, make_mesh

    try:
        return make_mesh(MeshSettings.parse(options.mesh))
    except ValueError as error:
        raise ValueError(f"--mesh={options.mesh}: {error}") from error


def define_reduce_flag() -> None:
    """Declares the method that drops image tokens."""
    flags.DEFINE_string(
        "reduce",
        None,
        "Drop image tokens: 'fastv:keep=0.25', ... "
        "(python -m visor_jax.show.reducers); default: none.",
    )


def define_answer_flags() -> None:
    """Declares the budget, the length of answers, and how their tokens are drawn."""
    flags.DEFINE_string(
        "budget",
        None,
        "'none', 'all', 'sa1:3', ..., how many SELF layers, 'auto', 'cascade' or "
        "'cascade:sa0,all@0.8'; default: most.",
    )
    flags.DEFINE_float("cost", 0.0, "With 'auto': above 0 for cheaper choices.")
    flags.DEFINE_integer(
        "max_new_tokens", None, "At most so many.", lower_bound=1, required=False
    )
    flags.DEFINE_float("temperature", 0.0, "0 for the likeliest token.")
    flags.DEFINE_integer("top_k", None, "Draw among so many tokens.")
    flags.DEFINE_float("top_p", None, "Draw among tokens of so much probability.")
    flags.DEFINE_float("repetition_penalty", 1.0, "Above 1 to avoid used tokens.")
    flags.DEFINE_integer(
        "seed",
        0,
        "Of what is drawn.",
        lower_bound=LEAST_SEED,
        upper_bound=MOST_SEED,
    )
    flags.DEFINE_multi_string(
        "stop", [], "Text that an answer ends before; repeat it for several."
    )


def define_crops_flag() -> None:
    """Declares how much of an image is looked at."""
    flags.DEFINE_string(
        "crops",
        None,
        "Of an image that is cut into tiles: 'base' (the whole, in one crop), 'all', "
        "how many tiles beside the base view, or 'best+2' for the two that it says are "
        "asked about; default: all.",
    )


def define_look_flag() -> None:
    """Declares the same where `--crops` are those of the warm-up."""
    flags.DEFINE_string(
        "look",
        None,
        "Of images that are cut into tiles, where a request says no crops: 'base' (the "
        "whole, in one crop), 'all', how many tiles beside it, 'best+2' (those that it "
        "says are asked about), or 'auto@0.8' (base, and all where that answer is less "
        "sure); default: all.",
    )


def define_engine_flags() -> None:
    """Declares the sizes of an engine, and the buckets that it is warmed up for."""
    flags.DEFINE_integer("rows", 8, "Prompts read at once, a power of two.")
    flags.DEFINE_integer("slots", 16, "Answers written at once, per budget.")
    flags.DEFINE_float(
        "memory_gb", 4.0, "Of the device, for prompts, answers and images at work."
    )
    flags.DEFINE_list("crops", None, "Warm up buckets of these crops; default: all.")
    flags.DEFINE_list("text_tokens", None, "... and of these text lengths.")


def load_network(options: Any) -> "VisorModel":
    """Returns the network that the flags name. Raises what `visor_jax.load` does."""
    from visor_jax.inference.loading.load import load
    from visor_jax.runtime.machine import machine_description

    model = load(
        options.checkpoint,
        dtype=options.dtype,
        chat_template=options.chat_template,
        revision=options.revision,
        reduce=options.reduce,
        mesh=mesh_of(options),
        allow_hosts=options.allow_hosts,
    )
    say_start(options.checkpoint, machine_description(), model.network.config.attention)
    return model


def sampling_of(options: Any) -> "Sampling":
    """Returns how tokens are chosen. Raises ValueError for an impossible setting."""
    from visor_jax.data.prompts.sampling import Sampling

    return Sampling(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        repetition_penalty=options.repetition_penalty,
    )


def random_key(options: Any, sampling: "Sampling") -> 'Key[Array, ""] | None':
    """Returns the key of all random draws, None where nothing is drawn."""
    import jax

    return None if sampling.is_greedy else jax.random.key(options.seed)


def engine_config(options: Any, new_tokens: int) -> "EngineConfig":
    """Returns the engine's sizes. new_tokens: that answers have room for."""
    from visor_jax.inference.engine.engine_config import EngineConfig

    return EngineConfig.of(
        rows=options.rows,
        slots=options.slots,
        new_tokens=new_tokens,
        memory_bytes=int(1e9 * options.memory_gb),
    )


def warmed_buckets(options: Any, buckets: "Buckets") -> "list[Bucket]":
    """Returns the buckets to warm up. Raises ValueError where there are none."""
    crops, text = (
        None if values is None else {_whole_number(value) for value in values}
        for values in (options.crops, options.text_tokens)
    )
    every: Sequence[Bucket] = buckets.all

    def is_asked_for(bucket: "Bucket") -> bool:
        has_crops = crops is None or bucket.crops in crops
        return has_crops and (text is None or bucket.text_tokens in text)

    chosen = [*filter(is_asked_for, every)]
    if not chosen:
        raise ValueError(
            f"No bucket has crops {sorted(crops or [])} and text_tokens "
            f"{sorted(text or [])}; there are crops {sorted({b.crops for b in every})} "
            f"and text_tokens {sorted({b.text_tokens for b in every})}."
        )
    return chosen


def _whole_number(text: str) -> int:
    if text.isdecimal():
        return int(text)
    raise ValueError(f"{text!r} is no whole number.")
