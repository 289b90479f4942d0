"""Prompts as the turns of a chat: a tokenizer that puts a model's chat template around every text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lga_lightning.exceptions import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# letters alone, which no template treats in a way of its own
USER, ASSISTANT = "Userturngoeshere", "Assistantturngoeshere"


class ChatTokenizer:
    """A tokenizer for which every text is what a user says in a chat, and every answer what the assistant says next.

    With its special tokens, as prompts are tokenised everywhere, a text gets the template around it: what stands before the
    user's turn (with the template's BOS, and no other), and what stands between the turn and the assistant's answer. Offsets
    count in the text itself, and are (0, 0) for the template's tokens, so that a subject is found in the user's turn and
    nowhere else. Without special tokens it tokenises plain text. All else is the tokenizer's own.

    Args:
        tokenizer: A fast tokenizer with a chat template.

    Attributes:
        plain: The tokenizer itself.
        before: The chat up to the user's turn.
        after: What stands between the user's turn and the answer, without spaces at its end.
        space: Whether a space belongs between ``after`` and the answer.
        end_of_turn: The special token with which the template ends the assistant's turn; None if it has none.

    Raises:
        ModelError: If the tokenizer has no chat template, or one that does not repeat what it is given.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        name = tokenizer.name_or_path
        if not tokenizer.chat_template:
            raise ModelError(
                f"The tokenizer of {name!r} has no chat template. Leave out --data.chat_template and --edits.chat, or take the model's "
                "instruction-tuned variant."
            )
        # up to the answer itself: a generation prompt may stop earlier, before what a model is to put in front of it
        texts = USER, ASSISTANT
        parts = [[{"type": "text", "text": text}] for text in texts]  # those of models that also see may want them
        first: Exception | None = None
        for contents in (texts, parts):
            try:
                self.before, after, end = _around(tokenizer, *contents)
                break
            except Exception as error:  # templates raise what they like
                first = first or error
        else:
            raise ModelError(
                f"The chat template of {name!r} cannot be used: it does not put a user's and an assistant's turn one after the "
                f"other ({first}). Leave out --data.chat_template and --edits.chat."
            ) from first
        self.plain = tokenizer
        self.after = after.rstrip(" ")
        self.space = after != self.after
        self.end_of_turn = _first_special(tokenizer, end)

    def __getattr__(self, name: str) -> Any:
        if name == "plain":  # a copy that is still being made
            raise AttributeError(name)
        return getattr(self.plain, name)

    def __call__(
        self, text: str | Sequence[str], add_special_tokens: bool = True, return_offsets_mapping: bool = False
    ) -> dict[str, Any]:
        """Tokenise one text, or several.

        Args:
            text: What a user says.
            add_special_tokens: Whether to put the template around it.
            return_offsets_mapping: Whether to say which characters of the text each token covers.

        Returns:
            ``input_ids`` and, if asked for, ``offset_mapping``; of each text, where there are several.
        """
        if isinstance(text, str):
            batch = self([text], add_special_tokens, return_offsets_mapping)
            return {name: values[0] for name, values in batch.items()}
        before, after = (self.before, self.after) if add_special_tokens else ("", "")
        chats = [f"{before}{turn}{after}" for turn in text]
        encoded = self.plain(chats, add_special_tokens=False, return_offsets_mapping=True)
        found: dict[str, Any] = {"input_ids": encoded["input_ids"]}
        if return_offsets_mapping:
            found["offset_mapping"] = [
                [_within(start - len(before), end - len(before), len(turn)) for start, end in offsets]
                for turn, offsets in zip(text, encoded["offset_mapping"], strict=True)
            ]
        return found

    def answer_ids(self, answer: str) -> list[int]:
        """Token ids of what the assistant says, as it follows ``after`` without a space.

        It is tokenised behind a line break, whose tokens are then taken off: some tokenizers put a space before whatever
        stands first.
        """
        encoded = self.plain("\n" + answer, add_special_tokens=False, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"]
        first = next(index for index, (_, end) in enumerate(offsets) if end > 1)
        if offsets[first][0] < 1:  # one token for the break and the answer's beginning
            return list(self.plain(answer, add_special_tokens=False)["input_ids"])
        return list(encoded["input_ids"][first:])


def plain(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer for texts that are no turns of a chat."""
    return tokenizer.plain if isinstance(tokenizer, ChatTokenizer) else tokenizer


def as_asked(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, chat: bool | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer for what a user asks: in a chat if the model is one that chats, else plain.

    A model chats if its tokenizer has a chat template and the token that ends the assistant's turn there ends what the model
    says, by its generation config or its tokenizer. Base models that come with the template of their siblings end otherwise.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer; if it is a :class:`ChatTokenizer` already, the model is taken to chat.
        chat: Whether to ask in a chat, where it should not be left to the model.

    Raises:
        ModelError: If a chat is asked for, and the tokenizer has no template for it.
    """
    bare = plain(tokenizer)
    if chat is not None or isinstance(tokenizer, ChatTokenizer):
        return bare if chat is False else ChatTokenizer(bare)
    if not tokenizer.chat_template:
        return tokenizer
    try:
        asking = ChatTokenizer(tokenizer)
    except ModelError:  # a template for other things than a question and its answer
        return tokenizer
    return asking if asking.end_of_turn in end_tokens(model, tokenizer) else tokenizer


def asks_in_chat(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer puts texts into a chat template."""
    return isinstance(tokenizer, ChatTokenizer)


def as_read(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """A prompt with what a tokenizer puts around it in words: the chat template, if it asks in one."""
    return f"{tokenizer.before}{text}{tokenizer.after}" if isinstance(tokenizer, ChatTokenizer) else text


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end what a model says: the tokenizer's, those of the model's generation config, and in a chat the end of a turn.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
    """
    config = getattr(model, "generation_config", None)
    listed = getattr(config, "eos_token_id", None)
    turn = tokenizer.end_of_turn if isinstance(tokenizer, ChatTokenizer) else None
    ends = (*(listed if isinstance(listed, list) else [listed]), tokenizer.eos_token_id, turn)
    return {end for end in ends if end is not None}


def _around(tokenizer: PreTrainedTokenizerBase, user: object, assistant: object) -> tuple[str, str, str]:
    """What a template puts before, between and behind a user's and an assistant's turn, with these as their contents."""
    chat: list[Any] = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    before, rest = str(tokenizer.apply_chat_template(chat, tokenize=False)).split(USER)
    between, behind = rest.split(ASSISTANT)
    return before, between, behind


def _first_special(tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    """The first special token in a text; None if there is none."""
    added = tokenizer.added_tokens_decoder
    special = {*tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)}
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return next((number for number in ids if number in special - {tokenizer.unk_token_id}), None)


def _within(start: int, end: int, length: int) -> tuple[int, int]:
    """An interval cut to what lies within a text of some length; (0, 0) if nothing does."""
    start, end = max(start, 0), min(end, length)
    return (start, end) if start < end else (0, 0)
