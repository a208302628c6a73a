"""What a judge model is asked, and how its verdict is read. Texts of the policy and of the data set are data in it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from insight_rl.errors import UsageError, check, is_number

PLACEHOLDERS = ("question", "answer", "completion", "mark")
_FILLED = re.compile(r"\{(" + "|".join(PLACEHOLDERS) + r")\}")

# Texts that a server may turn into its model's control tokens, also within a message.
_CONTROL = re.compile(r"<(?=\||/?s>|(?:start_of_turn|end_of_turn|bos|eos)>|</?SYS>>)|\[(?=/?INST\])|\|(?=>)")


def check_template(key: str, template: object) -> str:
    """``template`` itself. Raises ``UsageError`` where it lacks a place for what has to be in it."""
    if not isinstance(template, str):
        raise UsageError(f"{key}={template!r}: must be text")
    lacking = [name for name in PLACEHOLDERS if f"{{{name}}}" not in template]
    if lacking:
        raise UsageError(
            f"{key}: has no {', '.join(f'{{{name}}}' for name in lacking)}; {{mark}} is a word that occurs in none of "
            "the three texts, so that lines with it show where each begins and ends"
        )
    return template


def fill(template: str, *, question: str, answer: str, completion: str) -> str:
    """``template`` with the texts in their places; nothing within them is read as a place or as a control token."""
    texts = {"question": question, "answer": answer, "completion": completion}
    texts = {name: _CONTROL.sub(r"\g<0> ", _unicode(text)) for name, text in texts.items()}
    texts["mark"] = _mark("\x1f".join(texts.values()))
    return _FILLED.sub(lambda match: texts[match[1]], template)


def _mark(content: str) -> str:
    """A word that does not occur in ``content``: made of its hash, which no text can hold on purpose."""
    mark = f"#{hashlib.blake2b(content.encode(), digest_size=6).hexdigest()}"
    return mark if mark not in content else _mark(f"{content}{mark}")


def _unicode(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def read_gold(answer: Any) -> str:
    """The right answer in words, from ``Prompt.answer``: text, a number, a list of either, or those of our tasks.

    Raises ``UsageError`` for any other form.
    """
    if isinstance(answer, Mapping):
        if "gold" in answer:
            return read_gold(answer["gold"])
        if "letter" in answer:
            return _letter(answer)
    elif isinstance(answer, Sequence) and not isinstance(answer, (str, bytes)) and len(answer) > 0:
        return " or ".join(_plain(each) for each in answer)
    return _plain(answer)


def _plain(answer: Any) -> str:
    if isinstance(answer, str) and answer.strip():
        return answer.strip()
    if is_number(answer):
        return str(answer)
    raise UsageError(
        f'answer {str(answer)[:60]!r}: must be text, a number, a list of them, {{"gold": ...}} or {{"letter": "C"}}'
    )


def _letter(answer: Mapping[str, Any]) -> str:
    letter, choices = answer["letter"], answer.get("choices") or ()
    check(
        isinstance(letter, str) and re.fullmatch(r"[A-Z]", letter) is not None, "answer.letter", letter, "must be A-Z"
    )
    number = ord(letter) - ord("A")
    return f"({letter}) {choices[number]}" if number < len(choices) else f"({letter})"


def read_verdict(reply: str, *, right: str, wrong: str) -> bool | None:
    """Whether the last line of ``reply`` says ``right`` or ``wrong``; ``None`` where it says neither, or both occur.

    Reasoning up to the last ``</think>`` is left out, and reasoning that never ends is no verdict. A line counts if it
    says nothing else, but for markup and its final point; capitals do not matter.
    """
    thought, _, said = reply.rpartition("</think>")
    if "<think>" in said and not thought:
        return None
    verdicts = (_bare(right), _bare(wrong))
    lines = [_bare(line) for line in said.splitlines() if _bare(line)]
    if not lines or [verdict in lines for verdict in verdicts].count(True) != 1 or lines[-1] not in verdicts:
        return None
    return lines[-1] == verdicts[0]


def _bare(line: str) -> str:
    return line.strip(" \t\r*_`#>.").casefold()
