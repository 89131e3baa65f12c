"""What a server allows, what it is called, and what requests get that say nothing."""

import dataclasses

from visor_jax.data.images.read_image import MAX_PIXELS
from visor_jax.data.prompts.sampling import GREEDY, Sampling
from visor_jax.runtime.arguments import finite_number, whole_number

_COUNTS = ("most_requests", "max_body_bytes", "max_images", "max_pixels")
_SECONDS = ("seconds", "upload_seconds", "write_seconds")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """The limits of a server.

    name: of its model. budget: of requests that name none. look, sampling, stop: of
    those that say nothing of it; look: the crops of an image, or the name of a cascade
    of them, None for all.
    most_requests: that are read, wait or are being answered; one more is refused with
    429. seconds: for an answer, from the request's head on.
    upload_seconds: for a request's body. write_seconds: that a client may take to read
    what was sent to it. max_body_bytes: of a request. max_images: of a request.
    max_pixels: of an image. api_key: that requests must carry; None for none.

    Raises ValueError for impossible numbers.
    """

    name: str
    budget: str
    look: str | None = None
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    most_requests: int = 64
    seconds: float = 300.0
    upload_seconds: float = 60.0
    write_seconds: float = 60.0
    max_body_bytes: int = 32_000_000
    max_images: int = 8
    max_pixels: int = 33_000_000
    api_key: str | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in _COUNTS:
            whole_number(getattr(self, name), name, least=1)
        whole_number(self.max_pixels, "max_pixels", most=MAX_PIXELS)
        for name in _SECONDS:
            if finite_number(getattr(self, name), name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0.")
        if self.api_key is not None and not self.api_key.strip():
            raise ValueError("The API key is empty: give one, or unset the variable.")
