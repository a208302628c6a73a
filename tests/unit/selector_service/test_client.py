"""What the trainer's side says while the service does not answer."""

import logging

import pytest

from insight_rl.errors import UsageError
from insight_rl.selector_service.client import RemoteSelector
from insight_rl.types import Prompt


def test_the_first_failure_is_told_before_the_waiting(caplog, monkeypatch):
    events = []
    monkeypatch.setattr("time.sleep", lambda seconds: events.append((seconds, len(caplog.records))))
    selector = RemoteSelector(url="http://127.0.0.1:9", hosts={"name": "insight"}, num_retries=2)
    pool = [Prompt(id="a/1", task="a", text="?", token_ids=(1,), answer="1")]
    with caplog.at_level(logging.WARNING), pytest.raises(UsageError, match="does not answer"):
        selector.open(pool, num_rollouts=2, seed=0)
    assert events[0] == (0.2, 1), "it spoke before it slept"
    (record,) = caplog.records
    assert "http://127.0.0.1:9" in record.getMessage() and "trying for 1 s more" in record.getMessage()
