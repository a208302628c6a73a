"""Text to token ids and back, for the model at hand. Owns the chat template and the end-of-sequence ids.

Uses the tokenizers library on the model folder's own files, as transformers does inside, but starts in a few
milliseconds: every prompt of a run is checked before torch is imported. tests/ holds it equal to ``AutoTokenizer``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from insight_rl.errors import UsageError
from insight_rl.task.base import Messages


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
        self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._settings = _read_json(model_path / "tokenizer_config.json")
        self._template: jinja2.Template | None = None
        self.eos_token_ids = self._find_eos_token_ids()

    def encode(self, prompt: str | Messages) -> tuple[str, tuple[int, ...]]:
        """The prompt as the model sees it: plain text gets the tokenizer's special tokens, a chat its template's."""
        if isinstance(prompt, str):
            return prompt, tuple(self._tokenizer.encode(prompt).ids)
        text = self._render(prompt)
        return text, tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text without special tokens."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def decode_batch(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        return list(self._tokenizer.decode_batch([list(ids) for ids in sequences], skip_special_tokens=True))

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
