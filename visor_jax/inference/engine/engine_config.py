"""The fixed sizes of the engine: what its programs hold, whatever is asked."""

import dataclasses

from visor_jax.runtime.arguments import whole_number


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The fixed sizes of the engine's programs.

    rows: prompts prefilled at once, at most. pending: rows that wait for their budget.
    slots: answers decoded at once, per budget and bucket. requests_per_row: about one
    image, prefilled together. tokens_per_turn: decoded before another budget has its
    turn. new_tokens: of an answer, at most. images_at_once: encoded together.
    memory_bytes: of the device, for all that stays there between two programs beside
    the parameters; long prompts get fewer slots and places where it takes that
    (`program_shapes`). programs: compiled ones that are kept, at most.
    """

    rows: int = 8
    pending: int = 32
    slots: int = 16
    requests_per_row: int = 8
    tokens_per_turn: int = 8
    new_tokens: int = 256
    images_at_once: int = 8
    memory_bytes: int = 4_000_000_000
    programs: int = 512

    @classmethod
    def of(cls, *, rows: int, slots: int, **sizes: int) -> "EngineConfig":
        """Returns sizes for so many prompts and answers at once; others follow.

        The requests of a row are half of the slots, up to 16: longer rows are mostly
        pairs of questions that do not see each other.

        Raises:
          ValueError: for impossible sizes.
        """
        rows, slots = whole_number(rows, "rows"), whole_number(slots, "slots")
        derived = {"pending": 4 * rows, "requests_per_row": min(max(slots // 2, 1), 16)}
        return cls(rows=rows, slots=slots, **derived | sizes)

    def __post_init__(self) -> None:
        problems = []
        for field in dataclasses.fields(self):
            number = whole_number(getattr(self, field.name), field.name)
            object.__setattr__(self, field.name, number)
            if getattr(self, field.name) < 1:
                problems.append(f"{field.name}={getattr(self, field.name)} is below 1")
        for name in ("rows", "images_at_once"):
            if getattr(self, name).bit_count() != 1:
                problems.append(f"{name}={getattr(self, name)} is no power of two")
        if self.pending < self.rows:
            problems.append(f"pending={self.pending} is below rows={self.rows}")
        if self.requests_per_row > self.slots:
            problems.append(
                f"requests_per_row={self.requests_per_row} exceeds slots={self.slots}"
            )
        if problems:
            raise ValueError("Impossible engine config: " + "; ".join(problems) + ".")
