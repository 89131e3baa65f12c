"""The body of a chat request: OpenAI's fields that are known here, and VISOR's own.

Fields that would change the answer and are not done here are errors, never passed over;
what is null is as if it were not there.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from visor_jax.runtime.arguments import shown

_MOST_SEED = 2**31 - 1
_MOST_STOPS = 16


class _Known(BaseModel):
    """Takes the fields that it declares; others only where they say nothing."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    @model_validator(mode="after")
    def _refuse_unknown(self) -> "_Known":
        said = self.model_extra or {}
        unknown = sorted(name for name, value in said.items() if value is not None)
        if unknown:
            raise ValueError(f"unknown or not done here: {shown(unknown)}")
        return self


class ImageUrl(_Known):
    """Where an image is. detail: "low" for one as small as a crop."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class TextPart(_Known):
    """Text of a message."""

    type: Literal["text"]
    text: str


class ImagePart(_Known):
    """An image of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessage(_Known):
    """One turn. "developer" is "system" under a newer name."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]


class StreamOptions(_Known):
    """include_usage: whether the usage comes in a last chunk of its own."""

    include_usage: bool = False


class ResponseFormat(_Known):
    """Only text is written here."""

    type: Literal["text"]


class ChatRequest(_Known):
    """What a client asks.

    budget, cost, crops, top_k, repetition_penalty: VISOR's own (`extra_body` of the
    client).
    user: is taken and changes nothing.
    """

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=0, le=_MOST_SEED)
    stop: str | list[str] | None = None
    n: int | None = Field(None, ge=1, le=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=0)
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    presence_penalty: float | None = Field(None, ge=0, le=0)
    response_format: ResponseFormat | None = None
    user: str | None = None
    budget: str | int | None = None
    cost: float | None = None
    crops: str | int | None = None
    top_k: int | None = Field(None, ge=1)
    repetition_penalty: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _check(self) -> "ChatRequest":
        if self.max_tokens and self.max_completion_tokens:
            raise ValueError("give max_completion_tokens or max_tokens, not both")
        if len(self.stops) > _MOST_STOPS or "" in self.stops:
            raise ValueError(
                f"stop takes up to {_MOST_STOPS} texts, none of them empty"
            )
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options are for stream=true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings that are said."""
        said: Any = self.stop
        return (said,) if isinstance(said, str) else tuple(said or ())

    @property
    def new_tokens(self) -> int | None:
        """The most tokens of the answer that are said."""
        return self.max_completion_tokens or self.max_tokens
