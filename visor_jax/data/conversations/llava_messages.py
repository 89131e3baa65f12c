"""The text rules of LLaVA-OneVision's training, from raw turns to chat messages.

A turn with exactly one "<image>" that does not begin with it gets it first:

    "What is in <image> here?"  ->  "<image>\\nWhat is in  here?"

Several stay where they are. (A leading turn of the assistant is gone since conversion;
the template puts the system turn first.) Source: `preprocess_multimodal` and
`preprocess_qwen` of LLaVA-NeXT, `llava/train/train.py`.
"""

from typing import Any

from visor_jax.data.chat_template import IMAGE
from visor_jax.data.conversations.raw_sample import Conversation


def messages_of(conversation: Conversation) -> list[dict[str, Any]]:
    """Returns the chat messages, their image places in the texts."""
    return [
        {"role": role, "content": _image_first(text)}
        for role, text in conversation.turns
    ]


def _image_first(text: str) -> str:
    if text.count(IMAGE) != 1 or text.startswith(IMAGE):
        return text
    rest = text.replace(IMAGE, "").strip()
    return f"{IMAGE}\n{rest}".strip()
