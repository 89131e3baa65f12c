"""What a run trains on: the data section of a configuration."""

import dataclasses
from pathlib import Path

from visor_jax.data.conversations.manifest import is_converted
from visor_jax.data.conversations.mixture import is_mixture
from visor_jax.data.conversations.training_batches import ReadingSettings
from visor_jax.data.pages.settings import CAME_LATER, PageDataSettings
from visor_jax.data.prompts.token_layout import SUPERVISIONS

PAGES, CONVERSATIONS = "pages", "conversations"
KINDS = (PAGES, CONVERSATIONS)
TOO_LONG = ("drop", "truncate")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What to train on. The defaults from `supervision` on are LLaVA-OneVision's.

    kind: "pages" (the embedded benchmark, drawn on the spot) or "conversations" (what
      `python -m visor_jax.convert.data` made). The fields below `cache` are its.
    path: a converted folder, or a mixture file that lists several.
    cache: directory for drawn pages, the pretrained tower, measured lengths and plans;
      None for the workdir's.
    processor: folder with the files of tokenizer and image processor; None for those of
      the checkpoint that the run begins with.
    template: of the chat. supervision: which tokens have a loss (`token_layout`).
    max_length: text and image tokens of a sample; None for the network's limit.
    too_long: what happens to longer ones: "drop" or "truncate".
    max_left_out: share of all samples; if more cannot be used, for whatever reason, the
      run does not begin.
    text_lengths: that rows are padded to. max_images: of a sample.
    pack: whether samples of text alone, and samples about one image, share rows.
    any_crops: whether a step looks at a drawn number of crops of its images, the base
      view among them (`crop_draw`), so that the network is right at any (`look`).
    mirrors: whether half of the rows, drawn, see their images mirrored (`mirror_draw`).
    workers, threads, max_bad_records: see `ReadingSettings`.
    """

    kind: str
    batch_size: int
    pages: PageDataSettings | None = None
    path: str | None = None
    cache: str | None = None
    processor: str | None = None
    template: str = "qwen_1_5"
    supervision: str = "llava_next"
    max_length: int | None = None
    too_long: str = "drop"
    max_left_out: float = 0.5
    text_lengths: tuple[int, ...] = (256, 1024, 4096)
    max_images: int = 8
    pack: bool = True
    any_crops: bool = dataclasses.field(default=False, metadata=CAME_LATER)
    mirrors: bool = dataclasses.field(default=False, metadata=CAME_LATER)
    workers: int = 0
    threads: int = 2
    max_bad_records: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"data.kind={self.kind!r} is not one of {KINDS}.")
        if self.batch_size < 1:
            raise ValueError(f"data.batch_size={self.batch_size} must be at least 1.")
        if self.kind == CONVERSATIONS:
            self._check_choices()
            self.reading()

    @property
    def draws_crops(self) -> bool:
        """Whether steps look at drawn crops, of images or of drawn pages."""
        if self.kind == PAGES:
            return self.pages is not None and self.pages.any_crops
        return self.any_crops

    def reading(self, *, workers: int | None = None) -> ReadingSettings:
        """Returns how batches are read, by other workers if their number is given.

        Raises:
          ValueError: for impossible numbers.
        """
        return ReadingSettings(
            workers=self.workers if workers is None else workers,
            threads=self.threads,
            max_bad_records=self.max_bad_records,
        )

    def check_present(self) -> None:
        """Raises ValueError unless the data can be opened."""
        if self.kind != CONVERSATIONS:
            return
        if not self.path:
            raise ValueError(
                "This preset trains on converted data and has no data path: add "
                "--config.data.path=DIRECTORY (see python -m visor_jax.convert.data)."
            )
        if not is_converted(self.path) and not is_mixture(self.path):
            raise ValueError(
                f"data.path={self.path!r} is no converted data set (it holds no "
                "manifest.json) and no mixture file (.yaml or .json)."
            )
        if self.processor is not None and not Path(self.processor).is_dir():
            raise ValueError(f"data.processor={self.processor!r} is no folder.")

    def _check_choices(self) -> None:
        trained = SUPERVISIONS[1:]
        if self.supervision not in trained:
            raise ValueError(
                f"data.supervision={self.supervision!r} is not one of {trained}."
            )
        if self.too_long not in TOO_LONG:
            raise ValueError(
                f"data.too_long={self.too_long!r} is not one of {TOO_LONG}."
            )
        lengths = self.text_lengths
        if not lengths or min(lengths) < 1 or sorted(set(lengths)) != list(lengths):
            raise ValueError(f"data.text_lengths={lengths} must rise, from 1 on.")
        if not 0 <= self.max_left_out <= 1:
            raise ValueError(f"data.max_left_out={self.max_left_out} is not in 0..1.")
        if self.max_images < 0:
            raise ValueError(f"data.max_images={self.max_images} is negative.")
        if self.max_length is not None and self.max_length < 2:
            raise ValueError(f"data.max_length={self.max_length} must be at least 2.")
