"""Sends a folder to the hub by its own client (`huggingface_hub`, which transformers brings along).

One commit for all files: a repository has all of them or none. Large files go first, so that a second try finds those
that have arrived and sends the others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from insight_rl.errors import UsageError
from insight_rl.hub_access import hub_endpoint
from insight_rl.redaction import without_secrets

ANSWER_S = 180.0
"""So long may the hub be silent, or take nothing, before a request is given up and tried again."""
_OWN_FILES = {".gitattributes"}
"""What the hub itself puts into a new repository."""
_CARD = "README.md"
_AGAIN = "the same command goes on: what has arrived is not sent again"


class Hub:
    """The hub as seen with one token."""

    def __init__(self, token: str) -> None:
        from huggingface_hub import HfApi

        _calm_requests()
        self._token = token
        self._api = HfApi(endpoint=hub_endpoint(), token=token, library_name="insight_rl")

    def send(self, folder: Path, names: Sequence[str], *, repo: str, kind: str, private: bool, overwrite: bool) -> str:
        """Create the repository, unless an earlier try has, and commit the files; returns its address.

        ``kind`` is "model" or "dataset". Raises ``UsageError`` in one line with what to do next.
        """
        from huggingface_hub import CommitOperationAdd

        with self._explained(repo):
            self._create(repo, kind, folder, private=private, overwrite=overwrite)
            additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names]
            self._api.create_commit(repo, additions, commit_message="From insight-rl push", repo_type=kind)
        return f"{hub_endpoint()}/{'' if kind == 'model' else 'datasets/'}{repo}"

    def _create(self, repo: str, kind: str, folder: Path, *, private: bool, overwrite: bool) -> None:
        """Make the repository; one that is there must be empty or hold the same card, unless ``overwrite`` is set."""
        from huggingface_hub.errors import HfHubHTTPError

        try:
            self._api.create_repo(repo, repo_type=kind, private=private)
            return
        except HfHubHTTPError as error:
            if error.response.status_code != 409:
                raise
        info = self._api.model_info(repo) if kind == "model" else self._api.dataset_info(repo)
        if private and not info.private:
            raise UsageError(
                f"repo={repo!r}: is there already and public, and private=true; give private=false to add to it, or "
                "another name"
            )
        others = sorted({each.rfilename for each in info.siblings or ()} - _OWN_FILES)
        if others and not overwrite and not (_CARD in others and self._has_card(repo, kind, folder / _CARD)):
            raise UsageError(
                f"repo={repo!r}: is there already, with {len(others)} files ({', '.join(others[:3])}); take another "
                "name, or overwrite=true to replace those of the same names"
            )

    def _has_card(self, repo: str, kind: str, card: Path) -> bool:
        """Whether an earlier try has sent the same there: then the other of two repositories may have failed."""
        theirs = self._api.hf_hub_download(repo, _CARD, repo_type=kind)
        return Path(theirs).read_bytes() == card.read_bytes()

    @contextmanager
    def _explained(self, repo: str) -> Iterator[None]:
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
        from huggingface_hub.errors import HTTPError as ClientError  # type: ignore[attr-defined]

        try:
            yield
        except UsageError:
            raise
        except HFValidationError as error:
            raise UsageError(f"repo={repo!r}: {_first_line(error)}") from error
        # Its own errors, those of the connection, of a file on its way, and of an answer that it cannot read.
        except (HfHubHTTPError, ClientError, OSError, RuntimeError, ValueError) as error:
            if sys.stderr.isatty():
                print(file=sys.stderr)  # ends the line of the progress
            raise UsageError(self._sentence(repo, error)) from error

    def _sentence(self, repo: str, error: Exception) -> str:
        from huggingface_hub.errors import HfHubHTTPError

        cause: BaseException = error
        while not isinstance(cause, HfHubHTTPError) and cause.__cause__ is not None:
            cause = cause.__cause__
        said = without_secrets(_first_line(cause), {"HF_TOKEN": self._token})
        where = f"repo={repo!r}: "
        if not isinstance(cause, HfHubHTTPError):
            return f"{where}the connection to {hub_endpoint()} broke ({type(cause).__name__}: {said}); {_AGAIN}"
        code = cause.response.status_code
        if code == 401:
            return (
                f"{where}the hub does not accept the token; make one that may write at "
                f"{hub_endpoint()}/settings/tokens, and give it as HF_TOKEN or by `hf auth login`"
            )
        if code == 403:
            owner = repo.partition("/")[0]
            return f"{where}the token may not write there ({said}); take a name under your own account, or ask {owner}"
        if code in (408, 429) or code >= 500:
            return f"{where}the hub answers {code} ({said}); wait a little, then {_AGAIN}"
        return f"{where}the hub refuses it with {code} ({said}); nothing was published; mend that, then {_AGAIN}"


def find_token() -> str | None:
    """``HF_TOKEN``, or what `hf auth login` has stored."""
    from huggingface_hub import get_token

    return get_token()


def _calm_requests() -> None:
    """From now on no request of this process to the hub waits for ever: the client's own default is no limit at all.

    Progress is shown on a terminal only. Releases of `huggingface_hub` before 1.0 offer no place for a limit.
    """
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if not sys.stderr.isatty():
        disable_progress_bars()
    if not hasattr(huggingface_hub, "set_client_factory"):
        return
    present = huggingface_hub.get_session()
    kind, hooks = type(present), present.event_hooks

    def bounded() -> Any:
        return kind(event_hooks=hooks, follow_redirects=True, timeout=ANSWER_S)

    huggingface_hub.set_client_factory(bounded)


def _first_line(error: BaseException) -> str:
    """What the hub says of it where it says something, else the library's words."""
    lines = str(getattr(error, "server_message", None) or error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
