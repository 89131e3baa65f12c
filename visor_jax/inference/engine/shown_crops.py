"""What a request is shown of its image: all crops, some, or the base view first."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from visor_jax.data.images.cut_image import Cutter
from visor_jax.data.prompts.looking import CropRule, Looking
from visor_jax.data.prompts.processor import Processor
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.sample import Sample
from visor_jax.look import ALL, crops_of
from visor_jax.look_cascade import AUTO_LOOK, LookCascade, is_look_cascade


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """A request's sample as it is looked at first.

    looked_at: in words (`Looking.report`), None for all crops. cascade: that says
    whether the first answer is sure enough, and whole: the sample with all crops, to
    be looked at if not; None where there is but one look.
    """

    sample: Sample
    looked_at: dict[str, Any] | None
    cascade: LookCascade | None = None
    whole: Sample | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ShownCrops:
    """How an engine shows images.

    processor: with the look of requests that say nothing. looks: that requests may ask
    for, see `loading.engine_looks`. cascade: of requests that say nothing; None where
    they look once.

    Raises ValueError for a cascade that the looks have no base view for.
    """

    processor: Processor
    looks: Mapping[str, Looking] = dataclasses.field(default_factory=dict)
    cascade: LookCascade | None = None

    def __post_init__(self) -> None:
        self.cascade_of(None)

    @property
    def may_look_twice(self) -> bool:
        """Whether requests may ask for a cascade."""
        return AUTO_LOOK in self.looks

    def cutting_with(self, cut: Cutter) -> "ShownCrops":
        """Returns the same that cuts pictures so."""
        processor = self.processor.cutting_with(cut)
        return dataclasses.replace(self, processor=processor)

    def cascade_of(self, crops: str | None) -> LookCascade | None:
        """Returns the cascade that a request with these crops is for, if any.

        Raises:
          ValueError: if the engine looks once.
        """
        found = self.cascade if crops is None else None
        if is_look_cascade(crops):
            found = LookCascade.of_name(crops)
        if found is not None and not self.may_look_twice:
            raise ValueError(
                f"crops={found.name!r} look twice, and this engine looks once: make it "
                f"with looks=[{found.name!r}]."
            )
        return found

    def warm_up(self, text_tokens: Iterable[int]) -> None:
        """Compiles what choosing crops needs, for buckets with so many text tokens."""
        lengths = sorted({*text_tokens})
        for looking in filter(None, (self.processor.looking, *self.looks.values())):
            looking.warm_up(lengths)

    def of(self, request: Request, *, room: int) -> Shown:
        """Returns what a request is shown, read and tokenised.

        Args:
          room: tokens of the answer that the context must have room for.

        Raises:
          ValueError: for crops that the engine has no look for, or what cannot be read.
        """
        cascade = self.cascade_of(request.options.crops)
        if cascade is None:
            looking = self._looking(request.options.crops)
            processor = dataclasses.replace(self.processor, looking=looking)
            sample = processor.sample(request, room=room)
            return Shown(sample=sample, looked_at=looking and looking.report(sample))
        looking = self.looks[AUTO_LOOK]
        # Read once for both looks: a picture may be another one, or gone, later.
        reads_all = dataclasses.replace(self.processor, looking=None)
        whole = reads_all.sample(request, room=room)
        sample = looking.sample(whole)
        looked_at = looking.report(sample) | {"asked": cascade.name}
        if sample.looked_at is None:
            return Shown(sample=sample, looked_at=looked_at)
        return Shown(sample=sample, looked_at=looked_at, cascade=cascade, whole=whole)

    def report_of_all(self, whole: Sample, cascade: LookCascade) -> dict[str, Any]:
        """Returns what a cascade's second look saw (`Looking.report`)."""
        looking = self.looks[AUTO_LOOK]
        of_all = dataclasses.replace(looking, crops=ALL, rule=CropRule.AS_ALL)
        return of_all.report(whole) | {"asked": cascade.name}

    def _looking(self, name: str | None) -> Looking | None:
        """Returns the look at these crops, that of the processor for None."""
        if name is None:
            return self.processor.looking
        asked, found = crops_of(name), None
        if not asked.is_all:
            found = self.looks.get(asked.unlisted.name)
            if found is None:
                known = ", ".join(["all", *self.looks])
                raise ValueError(
                    f"crops={name!r} are none of the engine's looks: {known}. Make it "
                    "with looks=[...] for those that requests ask for."
                )
            found = dataclasses.replace(found, crops=asked)
        return found
