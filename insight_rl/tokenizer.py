"""Text to token ids and back, for the model at hand, with its chat template and its end-of-sequence ids.

Uses the tokenizers library on the model folder's own files, as transformers does inside, but starts in a few
milliseconds: every prompt of a run is checked before torch is imported. tests/ holds it equal to ``AutoTokenizer``.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from insight_rl.errors import UsageError
from insight_rl.task.base import Messages

_PRIVATE_USE = range(0xE000, 0x110000)
"""Characters without a meaning in Unicode come first here."""


class ModelTokenizer:
    """The tokenizer of a Hugging Face model folder; also the :class:`~insight_rl.task.base.PromptEncoder`."""

    def __init__(self, model_path: Path) -> None:
        """Raises ``UsageError`` if the folder has no readable ``tokenizer.json``."""
        file = model_path / "tokenizer.json"
        if not file.is_file():
            raise UsageError(
                f"model.path={str(model_path)!r}: it has no tokenizer.json; save a fast tokenizer into it with "
                "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
        self.model_path = model_path
        self._tokenizer = _load(file)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._settings = _read_json(model_path / "tokenizer_config.json")
        self._template: jinja2.Template | None = None
        model = _read_json(model_path / "config.json")
        self._vocab_size: int | None = model.get("vocab_size", model.get("text_config", {}).get("vocab_size"))
        special = [token.content for token in self._tokenizer.get_added_tokens_decoder().values() if token.special]
        # The longest first: one may begin with another.
        self._control_token = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")
        self.eos_token_ids = self._find_eos_token_ids()

    def encode(self, prompt: str | Messages) -> tuple[str, tuple[int, ...]]:
        """The prompt as the model sees it: plain text gets the tokenizer's special tokens, a chat its template's.

        The text of a control token (``<|im_end|>``) within a message or a plain prompt stays text: a row of a data set
        cannot end its own turn and begin another. Raises ``UsageError`` for text that is not Unicode, or token ids that
        the model does not have.
        """
        if isinstance(prompt, str):
            with self._control_tokens_as_text():
                return prompt, self._checked(self._ids(prompt, add_special_tokens=True))
        contents = "".join(text for message in prompt for text in message.values())
        if not self._control_token.search(contents):
            text = self._render(prompt)
            return text, self._checked(self._ids(text))
        # Marks that go through the template with the text, so that they can be found again in what comes out of it.
        opening, closing = islice((mark for mark in map(chr, _PRIVATE_USE) if mark not in contents), 2)
        mark = functools.partial(self._control_token.sub, f"{opening}\\g<0>{closing}")
        text = self._render([{field: mark(text) for field, text in message.items()} for message in prompt])
        pieces = re.split(f"{opening}(.*?){closing}", text, flags=re.DOTALL)
        ids: list[int] = []
        for place, piece in enumerate(pieces):
            if place % 2:  # between marks
                with self._control_tokens_as_text():
                    ids += self._ids(piece)
            else:
                ids += self._ids(piece)
        return "".join(pieces), self._checked(ids)

    def _ids(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"prompt {text[:60]!r}: not Unicode text ({error.reason}); mend the row or setting"
            ) from None
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    @contextmanager
    def _control_tokens_as_text(self) -> Iterator[None]:
        self._tokenizer.encode_special_tokens = True
        try:
            yield
        finally:
            self._tokenizer.encode_special_tokens = False

    def _checked(self, ids: Sequence[int]) -> tuple[int, ...]:
        if self._vocab_size is not None and ids and max(ids) >= self._vocab_size:
            raise UsageError(
                f"model.path={str(self.model_path)!r}: its tokenizer.json makes token {max(ids)}, but the model has "
                f"{self._vocab_size} tokens (vocab_size in config.json): they belong to different models; copy the "
                "tokenizer's files from the model's source"
            )
        return tuple(ids)

    def decode_batch(self, sequences: Sequence[np.ndarray]) -> list[str]:
        ids = [sequence.tolist() for sequence in sequences]
        return list(self._tokenizer.decode_batch(ids, skip_special_tokens=True))

    def _render(self, messages: Messages) -> str:
        if self._template is None:
            self._template = self._compile_template()
        special = {
            name: token["content"] if isinstance(token, dict) else token
            for name, token in self._settings.items()
            if name in ("bos_token", "eos_token", "pad_token", "unk_token") and token is not None
        }
        try:
            return self._template.render(messages=list(messages), add_generation_prompt=True, **special)
        except jinja2.TemplateError as error:
            raise UsageError(
                f"model.path={str(self.model_path)!r}: its chat template refuses the task's messages ({error}); "
                "change the task's roles or system prompt"
            ) from error

    def _compile_template(self) -> jinja2.Template:
        file = self.model_path / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.is_file() else self._settings.get("chat_template")
        if isinstance(source, list):  # several named templates
            source = next((entry["template"] for entry in source if entry["name"] == "default"), None)
        if not source:
            raise UsageError(
                f"model.path={str(self.model_path)!r}: the task asks for a chat, but the model has no chat template; "
                "take an instruction-tuned model, or set task.style=bare where the task offers it"
            )
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        environment.globals["raise_exception"] = _raise_template_error
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        return environment.from_string(source)

    def _find_eos_token_ids(self) -> tuple[int, ...]:
        """All ids that end a sequence, the generation config first: chat models often have several."""
        ids: list[int] = []
        for name in ("generation_config.json", "config.json"):
            value = _read_json(self.model_path / name).get("eos_token_id")
            ids.extend(value if isinstance(value, list) else [] if value is None else [value])
        token = self._settings.get("eos_token")
        if token is not None:
            token_id = self._tokenizer.token_to_id(token["content"] if isinstance(token, dict) else token)
            ids.extend([] if token_id is None else [token_id])
        if not ids:
            raise UsageError(
                f"model.path={str(self.model_path)!r}: no eos_token_id in generation_config.json or config.json and no "
                "eos_token in tokenizer_config.json; completions could never end. Add one"
            )
        return tuple(dict.fromkeys(ids))


def _load(file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no narrower class
        raise UsageError(f"{file}: not a tokenizer ({error}); copy the file again from the model's source") from error


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file}: not valid JSON ({error}); restore the file from the model's source") from error
    return content if isinstance(content, dict) else {}


def _raise_template_error(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
