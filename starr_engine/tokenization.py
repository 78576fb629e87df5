"""Text to token ids and back; the one place that knows the checkpoint's tokenizer."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from starr_engine.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

REPLACEMENT = "\ufffd"
"""What a byte-level decoder shows for the bytes of a character that is not complete yet."""


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
        self.vocab_size = len(backend)

    @classmethod
    def from_folder(cls, folder: Path, mask_token_id: int) -> Tokenizer:
        """Load ``tokenizer.json`` and its settings; code in the folder is never run.

        Args:
            folder: A checkpoint in the published format.
            mask_token_id: From the checkpoint's configuration.

        Raises:
            ConfigError: If the folder holds no usable tokenizer.
        """
        if not (folder / "tokenizer.json").is_file():
            raise ConfigError(
                f"{folder} has no tokenizer.json; a model folder needs the tokenizer's own "
                f"tokenizer.json and tokenizer_config.json"
            )
        from transformers import PreTrainedTokenizerFast  # slow to import: only when a model loads

        try:
            backend = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"the tokenizer in {folder} cannot be read: {error}") from error
        return cls(backend, mask_token_id)

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

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a conversation through the checkpoint's chat template, ready for the answer.

        Args:
            messages: ``{"role": ..., "content": ...}`` each, oldest first.

        Raises:
            RequestError: If the messages are malformed, the model has no template, the template
                refuses them, or the text is empty or contains the mask token.
        """
        check_messages(messages)
        if not self._backend.chat_template:
            raise RequestError("this model has no chat template; give the text as a plain prompt")
        from jinja2 import TemplateError

        try:
            text = self._backend.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise RequestError(f"the chat template refuses these messages: {error}") from error
        # The template writes the special tokens itself.
        return self._encode(str(text), add_special_tokens=False)

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

    def check_ids(self, token_ids: Sequence[int]) -> None:
        """Check ids that come from outside instead of from :meth:`encode`.

        Raises:
            RequestError: If there are none, one is outside the vocabulary, or one is the mask.
        """
        if not token_ids:
            raise RequestError("the prompt is empty; give at least one token id")
        for place, token in enumerate(token_ids):
            if not isinstance(token, int) or isinstance(token, bool):
                raise RequestError(f"prompt_token_ids[{place}] must be an integer, got {token!r}")
            if not 0 <= token < self.vocab_size:
                raise RequestError(
                    f"prompt_token_ids[{place}] = {token} is outside the vocabulary "
                    f"[0, {self.vocab_size})"
                )
            if token == self.mask_token_id:
                raise RequestError(
                    f"prompt_token_ids[{place}] = {token} is the mask token {self.mask_token}, "
                    f"which stands for text still to be generated; remove it"
                )

    def decode(self, token_ids: Iterable[int]) -> str:
        """Text of generated ids; special tokens are left out, spaces are not cleaned up."""
        return str(self._fast.decode(list(token_ids), skip_special_tokens=True))


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


class IncrementalDecoder:
    """Ids in, text out piece by piece; the pieces join to :attr:`text`, always.

    A piece is what the decoding of all ids so far adds to what was given out before, because one
    token's text may depend on its neighbours. Two endings are held back until more ids or
    :meth:`finish` settle them: the bytes of an incomplete character, and text that may turn out
    to be the beginning of a stop string.

    Args:
        tokenizer: Decodes.
        stop: Strings that end the text and are not part of it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self.text = ""
        """Everything given out so far."""
        self.stop_string: str | None = None
        """The stop string that ended the text, once one was found; later ids are ignored."""

    def push(self, token_ids: Iterable[int]) -> str:
        """Take the next ids, in order; returns what they settle."""
        if self.stop_string is not None:
            return ""
        self._ids.extend(token_ids)
        full = self._tokenizer.decode(self._ids)
        found = [stop for stop in self._stop if stop in full]
        if found:
            self.stop_string = min(found, key=full.index)
            return self._give(full[: full.index(self.stop_string)])
        full = full.rstrip(REPLACEMENT)
        return self._give(full[: len(full) - self._num_undecided(full)])

    def finish(self) -> str:
        """What was held back; call once, after the last :meth:`push`."""
        if self.stop_string is not None:
            return ""
        return self._give(self._tokenizer.decode(self._ids))

    @property
    def kept_ids(self) -> tuple[int, ...]:
        """The ids that :attr:`text` needs: after a stop string, those that begin before it."""
        if self.stop_string is None:
            return tuple(self._ids)
        count = bisect_left(
            range(len(self._ids)),
            len(self.text),
            key=lambda n: len(self._tokenizer.decode(self._ids[:n])),
        )
        return tuple(self._ids[:count])

    def _give(self, full: str) -> str:
        # What was given out is never taken back, even if a decoder revises its past.
        piece = full[len(self.text) :]
        self.text += piece
        return piece

    def _num_undecided(self, full: str) -> int:
        """Length of the longest ending of ``full`` that begins a stop string."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(full)), 0, -1):
            if any(stop.startswith(full[-length:]) for stop in self._stop):
                return length
        return 0
