"""What a run reads: how many pages, and which questions when."""

import dataclasses
from collections.abc import Mapping, Sequence

from visor_jax.data.pages.forms import DIGITS, forms_of
from visor_jax.data.pages.tiles.crop_draw import ANY, CROPS_OF_STEPS, FEW

# Of settings that older runs did not write down: left out of a run's record where they
# have their default, so that old and new runs compare.
CAME_LATER = {"came_later": True}

TaskPhase = tuple[float, Mapping[str, float]]
CropPhase = tuple[float, str]

# First what the tower was taught, before it forgets it; then reading; comparing last.
# This is the order in which the tasks come off their plateaus.
DEFAULT_PHASES: tuple[TaskPhase, ...] = (
    (
        0.1,
        {
            **{"colour": 1, "ring": 3, "half": 1, "square": 4},
            **{"read": 5, "mark": 1, "rmark": 1, "max": 1, "argmax": 1, "bar": 1},
        },
    ),
    (
        0.3,
        {
            **{"colour": 0.5, "ring": 1, "half": 0.5, "square": 1.5},
            **{"read": 5, "mark": 3, "rmark": 3, "max": 3, "argmax": 4, "bar": 1.5},
        },
    ),
    (
        1.0,
        {
            **{"colour": 0.5, "ring": 1, "half": 0.5, "square": 1.5},
            **{"read": 3, "mark": 2, "rmark": 2, "max": 3, "argmax": 5, "bar": 2},
        },
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PageDataSettings:
    """Settings of the embedded benchmark's training data.

    kind: "digits" (one crop a page) or "tiles" (a base view and a crop per tile).
    pool_size: pages of each size that are drawn once; questions are drawn anew at every
      step.
    questions_per_page: at most so many; a row that is full takes no more.
    text_length: T, the text tokens of a row.
    seed: of the pages and of the questions.
    any_crops: whether every step looks at a drawn number of its pages' crops, the base
      view always among them, so that the network is right at any (`tiles.crop_draw`).
    crop_phases: with `any_crops`, (end, crops) as in `phases`: "base" for the base view
      alone, "few" for two tiles beside it and no question about what only others show
      (the rest of a task's questions have its weight), "all", or "any" for a drawn
      number of them.
    phases: (end, task weights) in order; `end` is the fraction of all steps at which
      the next phase takes over, and 1 for the last.
    """

    pool_size: int = 20000
    batch_size: int = 16
    questions_per_page: int = 20
    text_length: int = 128
    seed: int = 0
    phases: tuple[TaskPhase, ...] = DEFAULT_PHASES
    kind: str = dataclasses.field(default=DIGITS, metadata=CAME_LATER)
    any_crops: bool = dataclasses.field(default=False, metadata=CAME_LATER)
    crop_phases: tuple[CropPhase, ...] = dataclasses.field(
        default=((1.0, ANY),), metadata=CAME_LATER
    )

    def __post_init__(self) -> None:
        names = ("pool_size", "batch_size", "questions_per_page")
        wrong = {n: getattr(self, n) for n in names if getattr(self, n) < 1}
        if wrong:
            raise ValueError(f"PageDataSettings needs values of at least 1: {wrong}.")
        if self.any_crops and self.kind == DIGITS:
            raise ValueError(
                f"any_crops: pages of {DIGITS} are one crop each; it is for tiles."
            )
        self._check_crop_phases()
        longest = max(form.book.longest for form in forms_of(self.kind))
        if self.text_length < longest:
            raise ValueError(
                f"text_length={self.text_length} cannot hold the longest question "
                f"with its answer ({longest} tokens)."
            )
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must not be negative.")
        _check_ends("Phases", self.phases)
        for _, weights in self.phases:
            for form in forms_of(self.kind):
                form.book.probabilities(weights)
        self._check_few()

    def _check_crop_phases(self) -> None:
        _check_ends("crop_phases", self.crop_phases)
        wrong = sorted({crops for _, crops in self.crop_phases} - {*CROPS_OF_STEPS})
        if wrong:
            raise ValueError(
                f"crop_phases name {wrong}: write one of {list(CROPS_OF_STEPS)}."
            )
        if not self.any_crops and self.crop_phases != ((1.0, ANY),):
            raise ValueError(
                f"crop_phases={self.crop_phases} are for any_crops=True: without it "
                "all crops are looked at."
            )

    def _check_few(self) -> None:
        """Raises ValueError where rows with few crops might have nothing to ask."""
        begin = 0.0
        for end, crops in self.crop_phases:
            if crops == FEW:
                self._check_asks_base(begin, end)
            begin = end

    def _check_asks_base(self, begin: float, end: float) -> None:
        """Raises ValueError where, between, only some tiles answer what is asked."""
        tasks = forms_of(self.kind)[0].book.tasks
        plain = [t.name for t in tasks if t.questions[0].tiles is None]
        starts = [0.0, *(stop for stop, _ in self.phases[:-1])]
        for start, (stop, weights) in zip(starts, self.phases, strict=True):
            if max(start, begin) < min(stop, end) and not any(map(weights.get, plain)):
                raise ValueError(
                    f"crop_phases have {FEW!r} where the tasks are {dict(weights)}: a "
                    "row may see nothing that they ask; give one of "
                    f"{plain} some weight there."
                )


def _check_ends(name: str, phases: Sequence[tuple[float, object]]) -> None:
    ends = [end for end, _ in phases]
    if not ends or ends[-1] != 1.0 or ends[0] <= 0 or sorted(set(ends)) != ends:
        raise ValueError(
            f"{name} must end at ascending fractions above 0, the last at 1; "
            f"got {ends}."
        )
