"""The selectors that the service can host: those of its configuration, with settings from the client.

A client chooses an option by name and changes plain values; classes and code come from the server's files only.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from insight_rl.build import build_part
from insight_rl.config import compose_config
from insight_rl.errors import check
from insight_rl.nested import merged
from insight_rl.paths import conf_dir
from insight_rl.selector.base import Selector
from insight_rl.selector_service.client import RemoteSelector
from insight_rl.selector_service.schema import SelectorChoice


class SelectorOptions:
    """``conf/selector``, and a folder of the server's own options beside it."""

    def __init__(self, *, config_dir: Path | None = None) -> None:
        self._config_dir = config_dir
        self._lock = threading.Lock()
        self._nodes: dict[str, dict[str, Any]] = {}

    def node(self, choice: SelectorChoice) -> dict[str, Any]:
        """The configuration node that a choice comes to. Raises ``UsageError`` for a name that there is not."""
        return merged(self._node(choice.name), choice.settings)

    def make(self, choice: SelectorChoice) -> Selector:
        """Raises ``UsageError`` for settings that the selector does not take."""
        selector: Selector = build_part("selector", self.node(choice))
        check(not isinstance(selector, RemoteSelector), "selector.name", choice.name, "cannot be hosted; name another")
        return selector

    def _node(self, name: str) -> dict[str, Any]:
        with self._lock:  # Hydra composes one configuration at a time
            if name not in self._nodes:
                names = self._names()
                check(name in names, "selector.name", name, f"there is no such option; take one of {', '.join(names)}")
                tree = compose_config([f"selector={name}"], config_dir=self._config_dir)
                self._nodes[name] = dict(OmegaConf.to_container(tree.selector, resolve=True))  # type: ignore[arg-type]
            return self._nodes[name]

    def _names(self) -> list[str]:
        folders = [conf_dir(), *([self._config_dir] if self._config_dir else [])]
        return sorted({path.stem for folder in folders for path in (folder / "selector").glob("*.yaml")})
