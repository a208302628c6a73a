"""A score function together with its settings: checked once, then called on arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from insight_rl.errors import check, is_number

Score = Callable[..., np.ndarray]
"""``score(alpha, beta, **)``: see :mod:`insight_rl.selector.acquisition` for what else it may ask for."""

_PROVIDED = ("num_rollouts", "rng")
"""What a score gets from the selector if it has a parameter of that name; every other one is a setting."""


class BoundScore:
    """``BoundScore(mopps, {"target": 0.4})``; without a function every candidate scores NaN (uniform selection)."""

    def __init__(self, score: Score | None, settings: Mapping[str, Any]) -> None:
        """Raises ``UsageError`` for a setting that the function does not have, or one that it lacks."""
        self._function: partial[Any] | None = None
        self._asks_for: tuple[str, ...] = ()
        if score is None:
            for name, value in settings.items():
                check(False, f"selector.{name}", value, "this selector has no such setting; remove it")
            return
        check(callable(score), "selector.score", score, "must be a function; give _target_ and _partial_: true")
        parameters = inspect.signature(score).parameters
        _check_settings(parameters, settings)
        self._function = self._configured = partial(score, **settings)
        self._asks_for = tuple(name for name in _PROVIDED if name in parameters)

    def setting(self, name: str) -> Any:
        """The configured value of a setting, or its default; ``None`` for one that the function does not have."""
        if self._function is None:
            return None
        parameter = inspect.signature(self._configured).parameters.get(name)
        return None if parameter is None else parameter.default

    def change(self, **settings: float) -> None:
        """Take these values for settings of the function from now on."""
        self._function = partial(self._configured, **settings)

    @property
    def is_uniform(self) -> bool:
        return self._function is None

    @property
    def is_drawn(self) -> bool:
        """Whether the same belief scores differently each time."""
        return "rng" in self._asks_for

    def __call__(
        self, alpha: np.ndarray, beta: np.ndarray, *, num_rollouts: int, rng: np.random.Generator
    ) -> np.ndarray:
        """float64, one for each belief. Raises ``UsageError`` for another shape or a NaN."""
        if self._function is None:
            return np.full(len(alpha), np.nan)
        provided = {"num_rollouts": num_rollouts, "rng": rng}
        scores = self._function(alpha, beta, **{name: provided[name] for name in self._asks_for})
        scores = np.asarray(scores, np.float64)
        check(scores.shape == alpha.shape, "selector.score", scores.shape, f"must return shape {alpha.shape}")
        if np.isnan(scores).any():
            worst = int(np.flatnonzero(np.isnan(scores))[0])
            check(False, "selector.score", "nan", f"is not a number at alpha={alpha[worst]}, beta={beta[worst]}")
        return scores


def _check_settings(parameters: Mapping[str, inspect.Parameter], settings: Mapping[str, Any]) -> None:
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    settable = [name for name in list(parameters)[2:] if name not in _PROVIDED]
    known = ", ".join(settable) or "none"
    for name, value in settings.items():
        check(takes_any or name in settable, f"selector.{name}", value, f"no such setting; this score has: {known}")
        if name in settable and is_number(parameters[name].default):
            check(is_number(value), f"selector.{name}", value, "must be a finite number")
    unset = [name for name in settable if parameters[name].default is inspect.Parameter.empty and name not in settings]
    unset = [name for name in unset if parameters[name].kind is not inspect.Parameter.VAR_KEYWORD]
    check(not unset, "selector", unset, "this score needs these settings; give each a value")
