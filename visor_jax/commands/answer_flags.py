"""The flags of the commands that answer, and what they stand for.

Which network (`define_network_flags`, `load_network`) and how it answers
(`define_answer_flags`, `sampling_of`, `random_key`); one definition for all commands.
Declaring them loads nothing heavy.
"""

from typing import TYPE_CHECKING, Any

from absl import flags

from visor_jax.commands.start_line import say_start
from visor_jax.data.prompts.chat_template import TEMPLATES
from visor_jax.models.config import COMPUTE_DTYPES
from visor_jax.runtime.arguments import LEAST_SEED, MOST_SEED

if TYPE_CHECKING:
    from jaxtyping import Array, Key

    from visor_jax.data.prompts.sampling import Sampling
    from visor_jax.inference.visor_model import VisorModel


def define_network_flags() -> None:
    """Declares which network answers, and in what form it is read."""
    flags.DEFINE_string("checkpoint", None, "Checkpoint or Hub id.", required=True)
    flags.DEFINE_string("revision", None, "Of a Hub id: branch, tag or commit.")
    flags.DEFINE_enum("dtype", None, COMPUTE_DTYPES, "Default: as stored.")
    flags.DEFINE_enum(
        "chat_template", None, sorted(TEMPLATES), "Default: the checkpoint's."
    )
    define_reduce_flag()


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
