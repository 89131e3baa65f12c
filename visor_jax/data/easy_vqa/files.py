"""easy-VQA as other parts read it: LLaVA's conversations, VLMEvalKit's table.

A training sample is one question, asked as it is at test: in one dialogue about a
picture later questions would see the answers to earlier ones. Samples about one picture
share rows while a network trains, so that the picture is encoded once all the same.
"""

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from visor_jax.data.easy_vqa.questions import EasyQuestion, picture_of
from visor_jax.data.prompts.messages import IMAGE
from visor_jax.runtime import atomic_write

COLUMNS = ("index", "image_id", "category", "question", "answer", "image")
Prompt = Callable[[str], str]


def conversations(
    questions: Sequence[EasyQuestion], prompt: Prompt
) -> list[dict[str, Any]]:
    """Returns an entry a question, its picture named from the folder of pictures.

    Args:
      prompt: from a question to what is asked.
    """
    return [
        {
            "id": each.id,
            "image": f"{each.image}.png",
            "conversations": [
                {"from": "human", "value": f"{IMAGE}\n{prompt(each.text)}"},
                {"from": "gpt", "value": each.answer},
            ],
        }
        for each in questions
    ]


def write_conversations(
    file: Path, questions: Sequence[EasyQuestion], prompt: Prompt
) -> None:
    """Writes the entries as JSON."""
    content = json.dumps(conversations(questions, prompt))
    atomic_write.write_bytes(file, content.encode())


def write_table(
    file: Path, questions: Sequence[EasyQuestion], data: Path, split: str
) -> None:
    """Writes the questions with their pictures; a later row refers to the first's.

    Raises:
      ValueError: if a picture is not there.
    """
    holder: dict[int, str] = {}
    lines = ["\t".join(COLUMNS)]
    for each in questions:
        picture = holder.get(each.image)
        if picture is None:
            holder[each.image] = each.id
            content = picture_of(data, split, each.image).read_bytes()
            picture = base64.b64encode(content).decode()
        cells = (each.id, each.image, each.kind, each.text, each.answer, picture)
        lines.append("\t".join(map(str, cells)))
    atomic_write.write_bytes(file, ("\n".join(lines) + "\n").encode())
