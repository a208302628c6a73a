"""``reward=llm_judge``: a judge model at an OpenAI-compatible address says whether a response is right.

    fill the template -> in the cache? -> POST /chat/completions, tried again a few times -> the last line of the reply

Where it fails (no reply in time, a server error, a reply without a verdict) the completion is *not judged*: neither
trained on nor counted as a failure. What the model is asked and how its reply is read:
:mod:`insight_rl.reward.llm_judge_question`; bounds of a request: :mod:`insight_rl.reward.llm_judge_http`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from insight_rl.errors import UsageError, check, is_number
from insight_rl.reward.base import BaseReward
from insight_rl.reward.extract import final_text
from insight_rl.reward.judge import unjudged
from insight_rl.reward.llm_judge_cache import VerdictCache
from insight_rl.reward.llm_judge_http import Answered, NoReply, Unreachable, post, read_address
from insight_rl.reward.llm_judge_question import check_template, fill, read_gold, read_verdict
from insight_rl.reward.shaping import Shaping, shape
from insight_rl.seeding import derive_seed
from insight_rl.types import Completion, Prompt, Reward

MARGIN = 0.1
"""Share of ``deadline_s`` that is left, so that a worker gives its reason before it is killed."""
MAX_PAUSE_S = 30.0
_BUSY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_FIXED = ("model", "messages", "stream", "n")
_EXAMPLE = {"question": "What is 1 + 1?", "answer": "2", "completion": "1 + 1 makes 2."}


class LlmJudgeReward(BaseReward):
    """1 where the judge model says that a response means what ``Prompt.answer`` says, 0 where it says the opposite.

    ``base_url`` is the address before ``/chat/completions``; ``request`` are further fields of the request;
    ``api_key_env`` names the environment variable that holds the key, which is read when a request is sent and kept
    nowhere. One request takes ``timeout_s`` at most, one verdict with all its tries 0.9 ``deadline_s``; before try n it
    waits ``backoff_s`` 2^(n-2), times 0.5 to 1 by a seed from what is asked. ``concurrency`` requests are under way at
    once in each judging process.
    """

    def __init__(
        self,
        *,
        base_url: str,
        model: str | None,
        template: str,
        right_line: str,
        wrong_line: str,
        request: Mapping[str, Any],
        api_key_env: str | None,
        timeout_s: float,
        deadline_s: float,
        max_retries: int,
        backoff_s: float,
        concurrency: int,
        cache_dir: str | None,
        max_response_chars: int,
        shaping: Sequence[Shaping],
    ) -> None:
        address = read_address("reward.base_url", base_url)
        self._address = address._replace(path=f"{address.path}/chat/completions")
        if model is None or not model.strip():
            raise UsageError(f"reward.model={model!r}: name the judge model as its server knows it")
        for key, line, other in (("right_line", right_line, wrong_line), ("wrong_line", wrong_line, right_line)):
            is_one = read_verdict(line, right=line, wrong=other) is not None
            check(is_one, f"reward.{key}", line, "must be one line of text, other than that of the opposite verdict")
        for name in _FIXED:
            check(
                name not in request, f"reward.request.{name}", request.get(name), "is set by this reward; leave it out"
            )
        check(api_key_env is None or _is_variable(api_key_env), "reward.api_key_env", "...", _NAME_THE_VARIABLE)
        for key, seconds in (("timeout_s", timeout_s), ("deadline_s", deadline_s), ("backoff_s", backoff_s)):
            check(is_number(seconds) and seconds > 0, f"reward.{key}", seconds, "must be above 0 seconds")
        is_room = timeout_s <= (1 - MARGIN) * deadline_s
        check(
            is_room,
            "reward.deadline_s",
            deadline_s,
            f"leave room for a request: {timeout_s / (1 - MARGIN):.3g} or more",
        )
        check(max_retries >= 0, "reward.max_retries", max_retries, "must be at least 0")
        check(1 <= concurrency <= 256, "reward.concurrency", concurrency, "must be from 1 to 256")
        check(max_response_chars >= 100, "reward.max_response_chars", max_response_chars, "must be at least 100")
        self._base_url = base_url
        self._model = model
        self._template = check_template("reward.template", template)
        self._lines = {"right": right_line, "wrong": wrong_line}
        self._request = dict(request)
        self._api_key_env = api_key_env
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._backoff_s = backoff_s
        self._cache = VerdictCache(None if cache_dir is None else Path(cache_dir).expanduser())
        self._max_response_chars = max_response_chars
        self._shaping = tuple(shaping)
        self.deadline_s = deadline_s
        self._longest_s = (1 - MARGIN) * deadline_s
        self.concurrency = concurrency

    def __call__(self, prompt: Prompt, completion: Completion) -> Reward:
        gold = read_gold(prompt.answer)
        response = final_text(completion.text, prompt=prompt.text, max_chars=self._max_response_chars).strip()
        if not response:
            reward = Reward(value=0.0, success=False, status="no_answer")
        else:
            reward = self._judge(question=prompt.text, answer=gold, completion=response)
        return shape(reward, prompt, completion, self._shaping)

    def explain_unusable(self, answer: Any) -> str | None:
        try:
            read_gold(answer)
        except UsageError as error:
            return str(error)
        return None

    def check_start(self) -> None:
        """Ask it about ``1 + 1``. Raises ``UsageError`` for what waiting cannot mend: address, key, model, reply.

        A server that is busy or slow is no reason to stop: its turn comes.
        """
        self._key()
        self._cache.check_start("reward.cache_dir")
        body = self._body(fill(self._template, **_EXAMPLE))
        try:
            answered = self._ask(body, deadline=time.monotonic() + self._longest_s)
            reply = _content(answered)
        except NoReply as failure:
            if failure.may_pass and not isinstance(failure, Unreachable):
                return
            where = f"reward.base_url={self._base_url!r}, reward.model={self._model!r}"
            raise UsageError(f"{where}: {failure.reason}") from None
        if self._verdict(reply) is None:
            right, wrong = self._lines.values()
            raise UsageError(
                f"reward.model={self._model!r}: its last line has to say {right!r} or {wrong!r}, and asked about 1 + 1 "
                f"it replied {reply[-200:]!r}; change reward.template or take another model"
            )

    def _judge(self, **texts: str) -> Reward:
        body = self._body(fill(self._template, **texts))
        key = hashlib.sha256(json.dumps([body.decode(), self._base_url, self._lines]).encode()).hexdigest()
        verdict = self._cache.get(key)
        if verdict is None:
            try:
                answered = self._ask(body, deadline=time.monotonic() + self._longest_s, seed_of=key)
                verdict = self._verdict(_content(answered))
            except NoReply as failure:
                return unjudged(failure.status, failure.reason)
            if verdict is None:
                return unjudged("error", "the judge model's reply does not end with a verdict")
            self._cache.put(key, verdict)
        return Reward(value=float(verdict), success=verdict, status="correct" if verdict else "wrong")

    def _verdict(self, reply: str) -> bool | None:
        return read_verdict(reply, **self._lines)

    def _body(self, text: str) -> bytes:
        messages = [{"role": "user", "content": text}]
        return json.dumps({"model": self._model, "messages": messages, **self._request, "stream": False}).encode()

    def _ask(self, body: bytes, *, deadline: float, seed_of: str = "") -> Answered:
        """A reply with status 200. Tries again until ``deadline`` where that may help; raises :class:`NoReply`."""
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "Connection": "close"}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        for attempt in range(self._max_retries + 1):
            pause_s = 0.0
            try:
                answered = post(
                    self._address, body, headers, timeout_s=min(self._timeout_s, deadline - time.monotonic())
                )
                if answered.status == HTTPStatus.OK:
                    return answered
                pause_s = answered.retry_after_s
                raise _refusal(answered.status)
            except NoReply as failure:
                jitter = random.Random(derive_seed(0, "llm_judge", seed_of, attempt)).uniform(0.5, 1)
                pause_s = max(pause_s, jitter * min(self._backoff_s * 2**attempt, MAX_PAUSE_S))
                is_last = attempt == self._max_retries or time.monotonic() + pause_s >= deadline
                if is_last or not failure.may_pass:
                    raise
                time.sleep(pause_s)
        raise AssertionError("the last try returns or raises")

    def _key(self) -> str | None:
        if self._api_key_env is None:
            return None
        key = os.environ.get(self._api_key_env, "").strip()
        if not re.fullmatch(r"[!-~]+", key):
            raise UsageError(
                f"reward.api_key_env={self._api_key_env!r}: this environment variable holds no key; set it, or give "
                "null for a server that asks for none"
            )
        return key


_NAME_THE_VARIABLE = "must be the name of an environment variable that holds the key, not the key itself"


def _is_variable(name: str) -> bool:
    return re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", name) is not None


def _refusal(status: int) -> NoReply:
    """Why a reply with another status than 200 is none. Not its text: a server may send back what was sent to it."""
    may_pass = status >= 500 or status in _BUSY
    hints = {
        401: "; the key is missing or wrong: reward.api_key_env",
        403: "; the key may not do this: reward.api_key_env",
        404: "; there is no such address or model: reward.base_url ends before /chat/completions",
        400: "; it does not take the request: reward.request",
        422: "; it does not take the request: reward.request",
    }
    if 300 <= status < 400:
        hints[status] = "; it points to another address, which is not followed: give that one"
    return NoReply("error", f"the judge model's server answers {status}{hints.get(status, '')}", may_pass=may_pass)


def _content(answered: Answered) -> str:
    """What the model said. Raises :class:`NoReply` for anything but a whole chat completion."""
    try:
        choice = json.loads(answered.body)["choices"][0]
        content, finish_reason = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise NoReply("error", "the judge model's server sends no chat completion", may_pass=False) from None
    if not isinstance(content, str):
        raise NoReply("error", "the judge model's reply has no text", may_pass=False)
    if finish_reason == "length":
        raise NoReply("error", "the judge model's reply is cut: raise reward.request.max_tokens", may_pass=False)
    return content
