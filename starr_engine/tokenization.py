"""Text to token ids and back; the one place that knows the checkpoint's tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from starr_engine.errors import ConfigError, RequestError
from starr_engine.tokenizer_files import TOKENIZER_JSON, build_tokenizer, has_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Tokenizer:
    """The tokenizer of one checkpoint.

    Args:
        backend: Loaded from the checkpoint's own files.
        mask_token_id: The id that no prompt may hold.
    """

    def __init__(self, backend: PreTrainedTokenizerFast, mask_token_id: int) -> None:
        self._backend = backend
        # The inner tokenizer is used directly: its wrapper warns on standard error about prompts
        # beyond ``model_max_length``, a limit that the engine checks and reports itself.
        self._fast = backend.backend_tokenizer
        self._fast.no_truncation()
        self._fast.no_padding()
        self.mask_token_id = mask_token_id

    @classmethod
    def from_folder(cls, folder: Path, mask_token_id: int) -> Tokenizer:
        """Load ``tokenizer.json``, or what stands in its place; code in the folder is never run.

        Args:
            folder: A checkpoint in the published format.
            mask_token_id: From the checkpoint's configuration.

        Raises:
            ConfigError: If the folder holds no usable tokenizer.
        """
        if not has_tokenizer(folder):
            raise ConfigError(
                f"{folder} has no tokenizer.json; a model folder needs the tokenizer's own "
                f"tokenizer.json and tokenizer_config.json"
            )
        if not (folder / TOKENIZER_JSON).is_file():
            return cls(build_tokenizer(folder), mask_token_id)
        from transformers import PreTrainedTokenizerFast  # slow to import: only when a model loads

        try:
            backend = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"the tokenizer in {folder} cannot be read: {error}") from error
        return cls(backend, mask_token_id)

    @property
    def backend(self) -> PreTrainedTokenizerFast:
        """The tokenizer as transformers has it, for tools that ask for one."""
        return self._backend

    @property
    def mask_token(self) -> str:
        """How the mask token is spelled."""
        return str(self._fast.id_to_token(self.mask_token_id) or f"id {self.mask_token_id}")

    def encode(self, text: str) -> list[int]:
        """Ids of a prompt, with the special tokens that the checkpoint puts around a text.

        Raises:
            RequestError: If the text is empty or contains the mask token.
        """
        return self._encode(text, add_special_tokens=True)

    def encode_part(self, text: str) -> list[int]:
        """Ids of a text that is not the beginning, without special tokens around it.

        Raises:
            RequestError: If the text is not valid Unicode or contains the mask token.
        """
        return self._encode(text, add_special_tokens=False) if text else []

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a conversation through the checkpoint's chat template, ready for the answer.

        Args:
            messages: ``{"role": ..., "content": ...}`` each, oldest first.

        Raises:
            RequestError: If the messages are malformed, the model has no template, the template
                refuses them, or the text is empty or contains the mask token.
        """
        # The template writes the special tokens itself.
        return self._encode(self.chat_text(messages), add_special_tokens=False)

    def chat_text(
        self, messages: Sequence[Mapping[str, str]], *, continues_last: bool = False
    ) -> str:
        """What the checkpoint's chat template makes of a conversation.

        Args:
            messages: As for :meth:`encode_chat`.
            continues_last: The answer goes on with the last message instead of following it.

        Raises:
            RequestError: If the messages are malformed, the model has no template, or the template
                refuses them.
        """
        check_messages(messages)
        if not self._backend.chat_template:
            raise RequestError("this model has no chat template; give the text as a plain prompt")
        from jinja2 import TemplateError

        try:
            text = self._backend.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=not continues_last,
                continue_final_message=continues_last,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise RequestError(f"the chat template refuses these messages: {error}") from error
        return str(text)

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        if not text:
            raise RequestError("the prompt is empty; give at least one character")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(f"the prompt is not valid Unicode: {error}") from error
        ids: list[int] = self._fast.encode(text, add_special_tokens=add_special_tokens).ids
        if self.mask_token_id in ids:
            raise RequestError(
                f"the prompt contains the mask token {self.mask_token}, which stands for text "
                f"still to be generated; remove it"
            )
        if not ids:
            raise RequestError("the prompt is empty: its text has no tokens")
        return ids

    def encode_word(self, text: str) -> list[int]:
        """Ids of a piece of text, without the special tokens around it; may be empty."""
        ids: list[int] = self._fast.encode(text, add_special_tokens=False).ids
        return ids

    def special_id(self, text: str) -> int | None:
        """Id of the special token that ``text`` spells; None if it is no such token."""
        token = self._fast.token_to_id(text)
        added = None if token is None else self._fast.get_added_tokens_decoder().get(token)
        return token if added is not None and added.special else None

    def decode(self, token_ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Text of generated ids; spaces are not cleaned up."""
        return str(self._fast.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def token_text(self, token_id: int) -> str:
        """Text of one token inside a text, with the space that leads it; specials by name."""
        added = self._fast.get_added_tokens_decoder().get(token_id)
        if added is not None and added.special:
            return str(added.content)
        one = str(self._fast.decode([token_id], skip_special_tokens=False))
        # Many decoders drop the space in front of a text; the second of two tokens keeps it.
        two = str(self._fast.decode([token_id, token_id], skip_special_tokens=False))
        inside = two.removeprefix(one)
        return inside or str(self._fast.id_to_token(token_id) or f"id {token_id}")


def check_messages(messages: object) -> None:
    """Check the shape of a conversation.

    Raises:
        RequestError: If it is not a non-empty list of ``{"role": str, "content": str}``.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise RequestError(f"messages must be a non-empty list, got {messages!r}")
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise RequestError(
                f'messages[{place}] must be {{"role": ..., "content": ...}}, got {message!r}'
            )
        for key in ("role", "content"):
            if not isinstance(message[key], str):
                raise RequestError(
                    f"messages[{place}].{key} must be a string, got {message[key]!r}"
                )
