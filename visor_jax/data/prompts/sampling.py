"""How the tokens of an answer are chosen, as whoever asks says it.

`visor_jax.inference.sampling` chooses tokens by these settings.
"""

import dataclasses
import os
from pathlib import Path

from visor_jax.runtime.arguments import finite_number, shown, whole_number


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
        self._check_types()
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

    def _check_types(self) -> None:
        """Makes Python's numbers of all. Raises ValueError for what is none."""
        for name in ("temperature", "top_p", "repetition_penalty"):
            value = getattr(self, name)
            if value is not None or name != "top_p":
                object.__setattr__(self, name, finite_number(value, name))
        if self.top_k is not None:
            object.__setattr__(self, "top_k", whole_number(self.top_k, "top_k"))
        if not isinstance(self.also_used, list | tuple):
            raise ValueError(
                f"also_used={shown(self.also_used)} is no tuple of tokens."
            )
        used = tuple(whole_number(token, "also_used") for token in self.also_used)
        object.__setattr__(self, "also_used", used)

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
        # Choosing a token needs nothing of what reads checkpoints, or of transformers.
        from visor_jax.data.prompts.generation_config import GENERATION, sampling_fields
        from visor_jax.data.prompts.tokenizer import TOKENIZER

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
    def takes_likeliest(self) -> bool:
        """Whether the logits' likeliest token is taken, whatever came before."""
        return self.is_greedy and not self.needs_used

    @property
    def needs_used(self) -> bool:
        """Whether it matters which tokens were used before."""
        return self.repetition_penalty != 1


GREEDY = Sampling()
