"""Runs that start alike have equal identities, others have not."""

from dataclasses import replace

import pytest

from insight_rl.errors import UsageError
from insight_rl.run_identity import RunIdentity, prompts_digest, read_identity
from insight_rl.types import Prompt

PROMPT = Prompt(id="a", task="t", text="x", token_ids=(1, 2), answer={"target": 3})


@pytest.mark.parametrize("change", [{"id": "b"}, {"token_ids": (1, 3)}, {"token_ids": (1,)}, {"answer": {"target": 4}}])
def test_every_change_of_a_prompt_shows(change):
    other = replace(PROMPT, **change)
    assert prompts_digest([PROMPT]) == prompts_digest([replace(PROMPT)])
    assert len({prompts_digest(some) for some in ([PROMPT], [other], [PROMPT, other], [other, PROMPT], [])}) == 5


def test_an_identity_is_written_and_read_back(tmp_path):
    identity = RunIdentity(model="m", pool="p", problems="q", evaluation="e")
    identity.write(tmp_path)
    assert read_identity(tmp_path) == identity


@pytest.mark.parametrize("content", ["", "[]", '{"model": "m"}', '{"other": 1}'])
def test_what_is_no_identity_is_refused(content, tmp_path):
    (tmp_path / "identity.json").write_text(content)
    with pytest.raises(UsageError, match=r"identity\.json: is not readable"):
        read_identity(tmp_path)
