"""How the tokens of an answer are chosen, as whoever asks says it.

`visor_jax.inference.sampling` chooses tokens by these settings.
"""

import dataclasses


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

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    @property
    def needs_used(self) -> bool:
        """Whether it matters which tokens were used before."""
        return self.repetition_penalty != 1


GREEDY = Sampling()
