"""Environments of the verifiers library that ask one question and judge one reply: finding, checking, scoring them.

An environment is a package that exports a ``Taskset`` of ``verifiers.v1``, which is the library's only interface since
0.4. Its ``load()`` makes tasks: a prompt, data, and methods marked ``@vf.reward``. We play it as the library does with
the harness ``null`` and one turn, and score the conversation as its ``vf-replay`` does, without a runtime. What needs
more (tools, several turns or agents, a sandbox, a judge model) is refused.

Naming an environment runs its code, so the command line must allow its package (:mod:`insight_rl.allowed_code`).

Library: https://github.com/PrimeIntellect-ai/verifiers ; the import, which takes seconds, is deferred.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from insight_rl.allowed_code import allowed
from insight_rl.errors import UsageError, check

LIBRARY = "verifiers.v1"
INSTALL = "pip install 'insight-rl[verifiers]'"
VERSIONS = r"0\.4\.\d+"
_BUILT_IN = ("harbor", "nemo_gym", "openenv", "textarena")
_NAME = re.compile(r"(?:\w[\w.-]*/)?(?P<name>[A-Za-z][\w-]*)(?:@[\w.-]+)?")
_NEEDS_RUNTIME = ("setup", "finalize", "stage_verifier", "runtime_env")
_ONLY = "only single-turn environments can be trained on"
_ROLES = ("system", "user", "assistant")


class Scored(NamedTuple):
    """What an environment's rewards and metrics said of one reply."""

    total: float
    """Weighted sum of the rewards."""
    weighted: Mapping[str, float]
    scores: Mapping[str, float]
    """Of metrics and rewards, without weights."""


def check_environment(key: str, env: object) -> str:
    """The module of the environment ``env`` (``my-env``, ``owner/my-env@0.1``). Imports nothing.

    Raises ``UsageError`` if the library or the module is not installed, or the command line does not allow it.
    """
    match = _NAME.fullmatch(env) if isinstance(env, str) else None
    if match is None:
        raise UsageError(f"{key}={env!r}: name an installed environment of the verifiers library: task.env=my-env")
    module = match["name"].replace("-", "_").lower()
    check(module not in _BUILT_IN, key, env, f"comes with verifiers and needs a sandbox or several turns; {_ONLY}")
    try:
        version = importlib.metadata.version("verifiers")
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(
            f"{key}={env!r}: the package verifiers is not installed; install it with `{INSTALL}`"
        ) from None
    if not re.fullmatch(VERSIONS, version):
        raise UsageError(f"{key}={env!r}: verifiers {version} is installed, and 0.4 is needed: `{INSTALL}`")
    check(importlib.util.find_spec(module) is not None, key, env, f"there is no module {module}; install its package")
    remedy = f"naming an environment runs its code; if you trust it, add --allow-package {module}"
    check(allowed.holds(f"{module}.environment"), key, env, remedy)
    return module


def check_settings(key: str, settings: object) -> None:
    """Refuse ``settings`` of a taskset that name code: it would be imported, and a setting is data."""
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            is_code = name in ("fn", "id", "judges") and value not in (None, [], "")
            remedy = "names code to import, which settings cannot do; write it into the environment's own package"
            check(not is_code, f"{key}.{name}", value, remedy)
            check_settings(f"{key}.{name}", value)
    elif isinstance(settings, Sequence) and not isinstance(settings, str):
        for index, value in enumerate(settings):
            check_settings(f"{key}[{index}]", value)


def open_environment(key: str, module: str, settings: Mapping[str, Any]) -> Environment:
    """The environment, imported and checked. ``key`` is ``task`` or ``reward``. Raises ``UsageError``."""
    check_settings(f"{key}.settings", settings)
    return _open(key, module, json.dumps(settings, sort_keys=True))


@functools.lru_cache(maxsize=32)
def _open(key: str, module: str, settings: str) -> Environment:
    import verifiers.v1 as vf
    from pydantic import ValidationError

    where = f"{key}.env={module!r}"
    try:
        exported = _exported(importlib.import_module(module))
    except Exception as error:
        raise UsageError(f"{where}: cannot be imported: {type(error).__name__}: {error}") from error
    tasksets = [each for each in exported if issubclass(each, vf.Taskset)]
    if len(tasksets) != 1:
        is_old = hasattr(importlib.import_module(module), "load_environment")
        old = "; it was written for verifiers before 0.4, take a release of it with a Taskset of verifiers.v1"
        names = f"exports {len(tasksets)} Tasksets by its __all__ and should export one"
        raise UsageError(f"{where}: {names}{old if is_old else ''}")
    if any(issubclass(each, vf.Env) for each in exported):
        raise UsageError(f"{where}: it brings an Env of its own, for several agents or turns; {_ONLY}")
    if any(issubclass(each, vf.Harness) for each in exported):
        raise UsageError(f"{where}: it brings a harness of its own; {_ONLY}")
    try:
        config = _config_type(tasksets[0]).model_validate({**json.loads(settings), "id": module})
        taskset = tasksets[0](config)
        reason = _why_not_single_turn(vf, taskset)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(["settings", *map(str, first["loc"])])
        raise UsageError(f"{key}.{name}: {where} says: {first['msg']}") from error
    except Exception as error:
        raise UsageError(f"{where}: cannot be made: {type(error).__name__}: {error}") from error
    if reason is not None:
        raise UsageError(f"{where}: {reason}; {_ONLY}")
    return Environment(where, taskset)


def _exported(module: ModuleType) -> list[type]:
    """The classes that its ``__all__`` names: how the library finds what an environment brings.

    Its own loaders import every environment that comes with it to see whether one has this name, which takes seconds.
    """
    named = [getattr(module, name, None) for name in getattr(module, "__all__", ())]
    return [each for each in named if isinstance(each, type)]


def _config_type(taskset_type: Any) -> Any:
    from verifiers.v1 import Taskset, TasksetConfig
    from verifiers.v1.utils.generic import concrete_type

    return concrete_type(taskset_type, TasksetConfig, origin=Taskset) or TasksetConfig


class Environment:
    """A single-turn environment, to read its tasks and to score replies to them."""

    def __init__(self, where: str, taskset: Any) -> None:
        self._where = where
        self._taskset = taskset
        self._task_type = type(taskset).task_type()
        self._data_type = self._task_type.data_type()

    def rows(self, max_tasks: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Identity and data of every task, at most ``max_tasks``, in the environment's order.

        The data is JSON without the library's own fields that have their default; a reply can be scored from it.
        Raises ``UsageError`` for a task that one reply in plain text cannot answer.
        """
        if max_tasks is None:
            check(self._taskset.bounded, "task.max_tasks", None, f"{self._where} never ends; say how many to take")
        taskset = self._taskset if max_tasks is None else self._taskset.take(max_tasks)
        try:
            for number, task in enumerate(taskset):
                yield self._row(number, task)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"{self._where}: load() failed: {type(error).__name__}: {error}") from error

    def _row(self, number: int, task: Any) -> tuple[str, dict[str, Any]]:
        import verifiers.v1 as vf

        where = f"{self._where}, task {number}"
        if (reason := _why_no_plain_question(task.data) or _why_not_scored(task)) is not None:
            raise UsageError(f"{where}: {reason}; {_ONLY}")
        usual = vf.TaskData().model_dump(mode="json")
        data = {name: value for name, value in task.data.model_dump(mode="json").items() if value != usual.get(name)}
        if type(task) is not self._task_type or not self._makes(data, task.data):
            raise UsageError(f"{where}: cannot be made again from its data, as scoring in another process needs")
        own_key = type(task).key is not vf.Task.key
        # Its place in the stream is no part of what a task is.
        content = {name: value for name, value in data.items() if name != "idx"}
        return (str(task.key) if own_key else json.dumps(content, sort_keys=True)), data

    def _makes(self, data: Mapping[str, Any], original: Any) -> bool:
        from pydantic import ValidationError

        try:
            return bool(self._data_type.model_validate(data) == original)
        except ValidationError:
            return False

    def score(self, data: Mapping[str, Any], message: Mapping[str, Any], *, num_tokens: int, is_cut: bool) -> Scored:
        """What the task of ``data`` gives for the assistant's ``message``. Raises what its rewards raise."""
        task = self._task_type(self._data_type.model_validate(dict(data)), self._taskset.config.task)
        trace = _trace(task, message, num_tokens=num_tokens, is_cut=is_cut)
        asyncio.run(task.score(trace))
        unscored = [name for name, reward in trace.rewards.items() if reward is None]
        if unscored or not trace.rewards:
            raise ValueError(f"{self._where}: no score from {', '.join(unscored) or 'any reward'}")
        scores = {name: value for name, value in trace.metrics.items() if value is not None}
        scores.update({name: reward.score for name, reward in trace.rewards.items()})
        weighted = {name: reward.value for name, reward in trace.rewards.items()}
        return Scored(float(trace.reward), weighted, scores)


def messages_of(data: Mapping[str, Any]) -> list[dict[str, str]]:
    """The chat of a task's data: its system prompt, then its prompt."""
    prompt, system = data["prompt"], data.get("system_prompt")
    messages = [{"role": "system", "content": system}] if system is not None else []
    if isinstance(prompt, str):
        return [*messages, {"role": "user", "content": prompt}]
    return [*messages, *({"role": each["role"], "content": _text(each["content"])} for each in prompt)]


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def _trace(task: Any, message: Mapping[str, Any], *, num_tokens: int, is_cut: bool) -> Any:
    """The conversation as the library records it: the prompt, and one reply that the model has sampled."""
    import verifiers.v1 as vf
    from verifiers import __version__
    from verifiers.v1.state import state_cls

    recorded = vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)
    trace = vf.Trace(
        verifiers=vf.VersionInfo(version=__version__),  # else it asks git for its commit
        task=recorded,
        state=state_cls(type(task))(),
        agent=vf.AgentInfo(config=vf.AgentConfig()),
    )
    for each in [*messages_of(task.data.model_dump(mode="json")), {**message, "role": "assistant"}]:
        parent = len(trace.nodes) - 1 if trace.nodes else None
        trace.nodes.append(vf.MessageNode(parent=parent, message=each))
    trace.nodes[-1].sampled = True
    usage = vf.Usage(prompt_tokens=0, completion_tokens=num_tokens)
    finish_reason = "length" if is_cut else "stop"
    trace.calls.append(vf.ModelCall(node=len(trace.nodes) - 1, finish_reason=finish_reason, usage=usage))
    trace.stop("agent_completed")
    return trace


def _why_not_single_turn(vf: Any, taskset: Any) -> str | None:
    task_type = type(taskset).task_type()
    config = taskset.config.task
    if type(taskset).toolsets(taskset.config) or task_type.toolsets(config):
        return "it gives the model tools"
    if task_type.NEEDS_CONTAINER:
        return "it needs a sandbox (NEEDS_CONTAINER)"
    overridden = [name for name in _NEEDS_RUNTIME if getattr(task_type, name) is not getattr(vf.Task, name)]
    if overridden:
        return f"its tasks have {', '.join(overridden)}, for which they need a sandbox"
    if any(hasattr(member, "intercept") for each in task_type.__mro__ for member in vars(each).values()):
        return "it changes what the model is asked or says (@vf.intercept)"
    clients = [name for name, value in config if isinstance(value, vf.BaseClientConfig)]
    if config.judges or clients:
        return f"its rewards ask a judge model ({', '.join(clients) or 'judges'}; reward=llm_judge can do that)"
    return None


def _why_not_scored(task: Any) -> str | None:
    rewards = task.hooks("reward")
    if not rewards:
        return "it has no reward (@vf.reward)"
    for function in (*rewards, *task.hooks("metric")):
        runtime = inspect.signature(function).parameters.get("runtime")
        if runtime is not None and runtime.default is inspect.Parameter.empty:
            return f"{function.__name__} needs a sandbox (its parameter runtime)"
    return None


def _why_no_plain_question(data: Any) -> str | None:
    if data.prompt is None:
        return "it has no prompt: a user opens the conversation"
    for name in ("image", "skills", "artifacts", "agent_user"):
        if getattr(data, name):
            return f"it needs a sandbox ({name})"
    messages = [] if isinstance(data.prompt, str) else data.prompt
    for message in messages:
        parts = [] if isinstance(message.content, str) else message.content or [None]
        if message.role not in _ROLES or getattr(message, "tool_calls", None):
            return f"its prompt has tools in it (a message of role {message.role})"
        if any(getattr(part, "type", None) != "text" for part in parts):
            return "its prompt is more than text"
    if not isinstance(data.prompt, str) and (not messages or messages[-1].role != "user"):
        return "its prompt does not end with a message of the user"
    return None
