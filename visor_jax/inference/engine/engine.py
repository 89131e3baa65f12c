"""The adaptive engine: every request in its own budget, and only that is computed.

    requests -> samples -> rows of one bucket -> prefill_trunk   for all budgets; scores
             -> the router -> groups of one budget -> prefill    the other layers
             -> slots of one budget -> decode -> answers   a few tokens, budgets in turn

Rows wait until those of one budget fill a group; groups go into slots as these become
free, while others go on. Nothing waits for the slowest: a slot is free when its answer
ends, and budgets take turns of a few tokens. An answer depends neither on its
neighbours nor on their number, and equals that of `generation.generate`.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jaxtyping import Array, Key

from visor_jax.budget import Budget
from visor_jax.data.buckets import Bucket
from visor_jax.data.images.cut_image import MOST_BYTES, KeptCuts
from visor_jax.data.images.read_image import ImageInput
from visor_jax.data.prompts.looking import Looking
from visor_jax.data.prompts.processor import Processor
from visor_jax.data.prompts.request import Prompt, Request, image_list
from visor_jax.data.prompts.sampling import GREEDY, Sampling
from visor_jax.inference import checked_arguments as checked
from visor_jax.inference.answers import Answer, Listener
from visor_jax.inference.engine.decode_batches import DecodeBatches
from visor_jax.inference.engine.engine_config import EngineConfig
from visor_jax.inference.engine.image_cache import ImageCache
from visor_jax.inference.engine.preparation import Preparation
from visor_jax.inference.engine.program_keys import all_keys, among, name_of
from visor_jax.inference.engine.program_shapes import IMAGE_TOKENS, ProgramShapes
from visor_jax.inference.engine.programs import Programs
from visor_jax.inference.engine.scheduler import Scheduler
from visor_jax.inference.engine.shown_crops import ShownCrops
from visor_jax.inference.generation.decode_step import Rules
from visor_jax.inference.routing.cascade import Cascade
from visor_jax.inference.routing.router import PolicyRouter, Router, known_cascades
from visor_jax.look_cascade import LookCascade
from visor_jax.models.vlm import VLM
from visor_jax.runtime.arguments import shown, whole_number
from visor_jax.runtime.device_cache import Held

Params = Any
_logger = logging.getLogger(__name__)


class Engine:
    """Answers requests as they come; `submit` and `step`, or `answers` for a stream.

    What a request says in its options goes before what is said to the engine. A request
    that cannot be answered is an answer with an error. Any other exception, of a router
    or of an iterable of requests say, ends every request; the engine is then as new.
    """

    def __init__(
        self,
        model: VLM,
        params: Params,
        processor: Processor,
        router: Router,
        *,
        budgets: Sequence[Budget] = (),
        cascades: Mapping[str, Cascade] | None = None,
        looks: Mapping[str, Looking] | None = None,
        look_cascade: LookCascade | None = None,
        scored: bool = False,
        config: EngineConfig | None = None,
        sampling: Sampling = GREEDY,
        key: Key[Array, ""] | int | None = None,
        images_kept: int = 64,
        log: Callable[[str], None] = _logger.debug,
    ) -> None:
        """Compiles nothing yet; see `warm_up`.

        Args:
          budgets: that requests may ask for beside those of the router. cascades: the
            same, by what requests call them. looks, look_cascade: see
            `loading.engine_looks`. scored: whether answers say how sure the network is;
            with `cascades`, or looks of a cascade, they do.
          config: None for the default, with the processor's number of new tokens.
          sampling: of requests that say nothing of it in their options.
          key: for random sampling (a seed will do); a request folds in its `draw`.
          images_kept: encoded images that later requests may find, at most, and keys
            and values of images (on the host 256 MB of cut ones as well); 0 for none.
          log: gets a line for every program that is compiled.

        Raises:
          ValueError: for budgets of another network, random sampling without key, or
            too little memory for even the smallest bucket.
        """
        self.cascades = known_cascades(router, cascades)
        budgets = *budgets, *(b for c in self.cascades.values() for b in c.budgets)
        for budget in (*router.budgets, *budgets):
            budget.check(model.config.plan)
        if not isinstance(config, EngineConfig | None):
            raise ValueError(f"config={shown(config)} is no EngineConfig.")
        self._sampling, key = checked.sampling_of(sampling), checked.one_key_of(key)
        images_kept = whole_number(images_kept, "images_kept", least=0)
        checked.function_of(log, "log")
        self.router, self.processor = router, processor
        how = {"looks": looks or {}, "cascade": look_cascade}
        self.crops = ShownCrops(processor=processor, **how)
        self.config = config or EngineConfig(new_tokens=processor.new_tokens)
        self.shapes = ProgramShapes(
            model,
            params,
            router.budgets,
            processor.buckets,
            asked=budgets,
            engine_config=self.config,
            rules=Rules.of(processor.eos_ids, processor.pad_id),
            keep_images=images_kept > 0,
            scored=scored or bool(self.cascades) or self.crops.may_look_twice,
        )
        self.programs = Programs(model, params, router, self.shapes, log=log)
        self._cuts = KeptCuts(MOST_BYTES if images_kept else 0)
        self.scheduler = self._new_scheduler(key, images_kept)

    def _new_scheduler(self, key: Key[Array, ""] | None, images_kept: int) -> Scheduler:
        """Returns what answers by the engine's programs, checked for its sampling."""
        preparation = Preparation(
            crops=self.crops.cutting_with(self._cuts),
            shapes=self.shapes,
            sampling=self._sampling,
            has_key=key is not None,
            chooses=isinstance(self.router, PolicyRouter),
            cascades=self.cascades,
            cascade=getattr(self.router, "cascade", None),
        )
        kept = Held(self.shapes.share(IMAGE_TOKENS), most=images_kept)
        key = jax.random.key(0) if key is None else key
        key = self.shapes.placement.put(key, self.shapes.placement.whole(key))
        return Scheduler(
            self.programs,
            self.processor,
            ImageCache(self.programs, kept),
            DecodeBatches(self.programs, self.processor, key, images_kept=images_kept),
            preparation,
        )

    def submit(
        self,
        request: Request,
        *,
        max_new_tokens: int | None = None,
        seconds: float | None = None,
        listener: Listener | None = None,
    ) -> int:
        """Returns the number of the request, which later steps answer.

        Args:
          seconds: after which its answer is that its time was up; None for no limit.
          listener: is told in every step what has been written so far; where there may
            be a second look, of that alone. It must not raise.

        Raises:
          ValueError: for what is no request, or more new tokens than the engine's
            programs can write.
        """
        what = checked.request_of(request), self._limit(max_new_tokens)
        checked.function_of(listener, "listener")
        return self.scheduler.queue.submit(*what, seconds=seconds, listener=listener)

    def cancel(self, number: int) -> bool:
        """Forgets a request that was submitted, and frees its slot.

        Returns whether it was waiting or being answered; then it gets no answer.
        """
        return self.scheduler.cancel(whole_number(number, "number"))

    def step(self) -> list[Answer]:
        """Returns the answers that were finished by one round of work, [] if none.

        A round prefills what has room, then decodes a few tokens of every budget.
        """
        self.scheduler.round()
        done, self.scheduler.done = self.scheduler.done, []
        return [answer for answer, _ in done]

    def forget_images(self) -> None:
        """Lets go of what is kept of images; nothing under way is lost."""
        self._cuts.clear()
        self.scheduler.images.clear()
        self.scheduler.decode_batches.forget_images()

    @property
    def is_idle(self) -> bool:
        """Whether every request has been answered."""
        return self.scheduler.is_idle

    def answers(
        self, requests: Iterable[Request] = (), *, max_new_tokens: int | None = None
    ) -> Iterator[Answer]:
        """Yields answers as they are finished; `number` says which request it was.

        Requests are taken as there is room for them; those submitted before, or
        meanwhile, are answered too. Left early, the stream takes what it has not
        answered with it; what was submitted stays. No request is an answer with error.

        Raises:
          ValueError: for what is no iterable, or as `submit`.
        """
        with self._drawing_from(requests, max_new_tokens):
            while not self.is_idle:
                self.scheduler.round()
                while self.scheduler.done:
                    yield self.scheduler.done.pop(0)[0]

    def rounds(
        self, requests: Iterable[Request] = (), *, max_new_tokens: int | None = None
    ) -> Iterator[list[Answer]]:
        """Yields what `answers` does round by round, so that none is lost between."""
        with self._drawing_from(requests, max_new_tokens):
            while not self.is_idle:
                yield self.step()

    @contextlib.contextmanager
    def _drawing_from(
        self, requests: Iterable[Request], max_new_tokens: int | None
    ) -> Iterator[None]:
        """Takes requests from the iterable while the context is open."""
        limit = self._limit(max_new_tokens)
        source = self.scheduler.queue.draw_from(checked.source_of(requests), limit)
        try:
            yield
        finally:
            self.scheduler.drop(source)

    def answer_all(
        self, requests: Sequence[Request], *, max_new_tokens: int | None = None
    ) -> list[Answer]:
        """Returns the answers in the order of the requests."""
        found = self.answers(requests, max_new_tokens=max_new_tokens)
        return sorted(found, key=lambda answer: answer.number)

    def ask_many(
        self, image: ImageInput, questions: str | Sequence[Prompt], **options: Any
    ) -> list[Answer]:
        """Returns the answers to several questions about one image, which is paid once.

        The tower and the projector run once, and the image goes once through the layers
        of each budget: later questions about it, in this call or another, find its keys
        and values as long as they are kept, if the same text stands before its end.

        Args:
          questions: texts, or lists of messages; a single text is one question.
        """
        (image,) = image_list([image])
        requests = [
            Request(question, [image]) for question in checked.questions_of(questions)
        ]
        return self.answer_all(requests, **options)

    def warm_up(
        self,
        buckets: Iterable[Bucket] | None = None,
        budgets: Iterable[Budget] | None = None,
        *,
        report: Callable[[int, int, str, float], None] | None = None,
    ) -> int:
        """Compiles all programs for these buckets and budgets; returns how many.

        Args:
          buckets: None for all of the processor's. budgets: None for all that requests
            may get.
          report: gets (done, of, name, seconds) after each.

        Programs that draw are among them if the engine's own sampling does; what a
        request asks for beyond that is compiled when it comes.
        """
        buckets = among(buckets, self.processor.buckets.all, "buckets")
        keys = all_keys(
            self.shapes,
            buckets,
            among(budgets, self.shapes.budgets, "budgets"),
            draws=not self._sampling.takes_likeliest,
        )
        checked.function_of(report, "report")
        self.crops.warm_up(bucket.text_tokens for bucket in buckets)
        for done, key in enumerate(keys, 1):
            began = time.perf_counter()
            self.programs.compile(key)
            if report is not None:
                report(done, len(keys), name_of(key), time.perf_counter() - began)
        return len(keys)

    def _limit(self, max_new_tokens: int | None) -> int:
        most = self.config.new_tokens
        if max_new_tokens is None:
            return most
        limit = whole_number(max_new_tokens, "max_new_tokens")
        if not 1 <= limit <= most:
            raise ValueError(f"{max_new_tokens=} must lie in 1..{most}.")
        return limit
