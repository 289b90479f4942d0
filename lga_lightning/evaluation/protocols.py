"""How a model is let speak: a completion that is cut at its first sentence, or free decoding to its natural end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ProtocolName = Literal["completion", "wild"]

LIMIT = "{limit} tokens (or as many as the longest accepted answer needs, if it is longer)"
"""Where an answer of the model's own is cut, in words."""

NORMALISED = "normalised (lower case, no punctuation, no articles before a word, white space folded)"

NEUTRAL_TEXT = (
    "The library opens at nine in the morning on weekdays. Visitors leave their coats at the entrance, and most of them read "
    "by the windows until the light fades."
)
"""What stands before a prompt by default where it is asked in a context: it names nothing that anybody would edit."""


@dataclass(frozen=True)
class Protocol:
    """A way to let a model answer in its own words.

    Attributes:
        max_new_tokens: Where an answer is cut by default, if no accepted answer is longer.
        words: Of what the scores of the model's own words are taken, with ``{limit}`` for the number of tokens.
        in_context: The same of prompts that are asked in a context; "" where none are.
    """

    max_new_tokens: int
    words: str
    in_context: str = ""


_FREELY = (
    "what the model says greedily until it comes to its own end (an end-of-text token, or the end of its turn in a chat), cut "
    f"at {LIMIT}, {NORMALISED}, asked as a user's turn in the chat template of a model that chats, else as it stands, "
)

PROTOCOLS: dict[str, Protocol] = {
    "completion": Protocol(
        50,
        "the model's greedy answer, up to a newline, a full stop that is not within an answer, or the end of the text, at most "
        f"{LIMIT}, {NORMALISED}, ",
    ),
    "wild": Protocol(200, _FREELY, f"with a neutral text before the prompt, {_FREELY}"),
}
