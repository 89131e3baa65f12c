"""Small mutations of valid values and files; each follows from a random generator."""

import copy
import time

from tests.data.prompts.test_chat_template import DIALOGUE

# Seconds of this process: others may keep it waiting.
SLOWEST = 2.0


def mutated_bytes(content, rng):
    """Returns the file cut, with bytes changed, left out, doubled or inserted."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        kind, place = rng.integers(5), int(rng.integers(len(data) + 1))
        count = int(rng.integers(1, 9))
        if kind == 0:
            data = data[:place]
        elif kind == 1:
            for i in rng.integers(len(data) or 1, size=count):
                data[i : i + 1] = bytes([rng.integers(256)])
        elif kind == 2:
            del data[place : place + count]
        elif kind == 3:
            data[place:place] = data[place : place + count]
        else:
            data[place:place] = rng.bytes(count)
    return bytes(data)


STRINGS = (
    *("", "tool", "user", "<image>", "<video>", "<|im_end|>", "<|im_start|>user\n"),
    *("\ud800", "\x00", "\n\n", "界", "x" * 300, "image", "text", "<ima", "ge>"),
)
STRANGE = (
    *(*STRINGS, None, 0, float("nan"), [], {}, {"type": "image"}, {"type": "video"}),
    *({"type": "text"}, {"type": "text", "text": "so"}, {"type": "image", "image": 1}),
    *({"type": "image", "image": b"none"}, {"type": "image", "url": "http://a"}, b"?"),
    *({"type": "image", "base64": "?"}, {"role": "user", "content": "<image> what"}),
)


def mutated_messages(rng):
    """Returns a conversation in which one or two values are changed or dropped."""
    return mutated(DIALOGUE, rng)


def mutated(value, rng, strange=STRANGE):
    """Returns a value of JSON in which one or two values are changed or dropped."""
    root = {"messages": copy.deepcopy(value)}
    for _ in range(rng.integers(1, 3)):
        node, key = root, "messages"
        # Nearly always down to a leaf.
        while isinstance(node[key], dict | list) and node[key] and rng.random() < 0.95:
            node = node[key]
            keys = list(node) if isinstance(node, dict) else range(len(node))
            key = keys[rng.integers(len(keys))]
        other, kind = strange[rng.integers(len(strange))], rng.integers(6)
        if isinstance(node[key], str) and kind:
            text, words = node[key], STRINGS[rng.integers(len(STRINGS))]
            place = int(rng.integers(len(text) + 1))
            node[key] = text[:place] + words + text[place + kind - 1 :]
        elif kind == 0 and node is not root:
            del node[key]
        elif isinstance(node, list):
            node.insert(key, other)
        else:
            node[key] = other
    return root["messages"]


def outcome(function, *args, **kwargs):
    """Returns "fine" or "refused"; anything but a clear ValueError passes through."""
    start = time.process_time()
    try:
        function(*args, **kwargs)
        result = "fine"
    except UnicodeError:
        raise
    except ValueError:
        result = "refused"
    assert time.process_time() - start < SLOWEST
    return result
