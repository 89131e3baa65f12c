"""How the next token is chosen from its logits.

In the order of Hugging Face `transformers`: tokens used before are made less likely by
the repetition penalty. At temperature 0 the likeliest token is taken. Otherwise logits
are divided by the temperature, cut to the `top_k` likeliest tokens, then to the
smallest set whose probabilities reach `top_p`; a token is drawn from what is left.
"""

import dataclasses
import os
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """The settings; the default takes the likeliest token.

    temperature: 0 takes the likeliest token.
    top_k, top_p: None keeps all tokens (`transformers` has top_k=50 unless told).
    repetition_penalty: above 1 for less repetition of the prompt and the answer so far.
    also_used: tokens that count as used from the start. For the very numbers of
      `transformers`, the image placeholder, which is part of its prompts.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    also_used: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.temperature < float("inf"):
            problems.append(f"temperature={self.temperature} is not a number from 0 on")
        if self.top_k is not None and self.top_k < 1:
            problems.append(f"top_k={self.top_k} keeps no token")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            problems.append(f"top_p={self.top_p} is not in (0, 1]")
        if self.is_greedy and (self.top_k is not None or self.top_p is not None):
            problems.append("top_k and top_p need a temperature above 0")
        if not 0 < self.repetition_penalty < float("inf"):
            problems.append(
                f"repetition_penalty={self.repetition_penalty} is not above 0"
            )
        if any(token < 0 for token in self.also_used):
            problems.append(f"also_used={self.also_used} are not all tokens")
        if problems:
            raise ValueError("Impossible sampling: " + "; ".join(problems) + ".")

    @classmethod
    def from_checkpoint(cls, folder: str | os.PathLike[str]) -> "Sampling":
        """Returns what a checkpoint's generation_config.json asks for.

        As transformers reads it: without `do_sample` the likeliest token, whatever else
        the file says; the default where there is no file.

        Args:
          folder: of Hugging Face, or a workdir that was imported from one.

        Raises:
          ValueError: if it is no folder, the file is damaged, or it asks for what is
            not computed here (beams, say).
        """
        # Choosing a token needs nothing of what reads checkpoints.
        from visor_jax.checkpoints.hf.generation_config import (
            GENERATION,
            sampling_fields,
        )
        from visor_jax.checkpoints.workdir_files import TOKENIZER

        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder: give that of a checkpoint.")
        if not (folder / GENERATION).is_file() and (folder / TOKENIZER).is_dir():
            folder = folder / TOKENIZER
        return cls(**sampling_fields(folder))

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    @property
    def needs_used(self) -> bool:
        """Whether it matters which tokens were used before."""
        return self.repetition_penalty != 1


GREEDY = Sampling()


def sample_token(
    logits: Float[Array, "B W"],
    sampling: Sampling,
    keys: Key[Array, "B"] | None = None,
    used: Bool[Array, "B W"] | None = None,
) -> Int[Array, "B"]:
    """Returns the chosen token of each row.

    Args:
      keys: one per row, so that a row's draw does not depend on its neighbours; not
        used when greedy.
      used: the tokens that the repetition penalty is for.
    """
    if sampling.needs_used:
        logits = penalised(logits, used, sampling.repetition_penalty)
    if sampling.is_greedy:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    kept = filtered(logits, sampling)
    return jax.vmap(jax.random.categorical)(keys, kept).astype(jnp.int32)


def penalised(
    logits: Float[Array, "B W"], used: Bool[Array, "B W"], penalty: float
) -> Float[Array, "B W"]:
    """Returns the logits with those of used tokens lowered (CTRL, Keskar et al. 2019).

    Positive ones are divided by the penalty, negative ones multiplied.
    """
    lowered = jnp.where(logits < 0, logits * penalty, logits / penalty)
    return jnp.where(used, lowered, logits)


def filtered(logits: Float[Array, "B W"], sampling: Sampling) -> Float[Array, "B W"]:
    """Returns the logits that tokens are drawn from; -inf for tokens that are cut."""
    logits = logits.astype(jnp.float32) / sampling.temperature
    if sampling.top_k is not None:
        logits = _top_k(logits, min(sampling.top_k, logits.shape[-1]))
    if sampling.top_p is not None and sampling.top_p < 1:
        logits = _top_p(logits, sampling.top_p)
    return logits


def _top_k(logits: Float[Array, "B W"], count: int) -> Float[Array, "B W"]:
    # Tokens as likely as the last one kept stay too.
    least = jax.lax.top_k(logits, count)[0][:, -1:]
    return jnp.where(logits < least, -jnp.inf, logits)


def _top_p(logits: Float[Array, "B W"], mass: float) -> Float[Array, "B W"]:
    """Cuts the unlikeliest tokens as long as they hold at most 1 - mass together.

    probabilities  0.5  0.1  0.15  0.25      mass 0.7
    summed from the unlikeliest on: 0.1, 0.25, 0.5, 1.0
    cut                 x    x
    """
    order = jnp.argsort(logits, axis=-1)
    ascending = jnp.take_along_axis(logits, order, axis=-1)
    summed = jnp.cumsum(jax.nn.softmax(ascending, axis=-1), axis=-1)
    cut = (summed <= 1 - mass).at[:, -1].set(False)
    place = jnp.argsort(order, axis=-1)
    return jnp.where(jnp.take_along_axis(cut, place, axis=-1), -jnp.inf, logits)
