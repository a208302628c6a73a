"""Settings of a run's faults are refused by their keys before anything starts."""

import pytest

from insight_rl.build import build_part
from insight_rl.config import compose_config, parse_config
from insight_rl.errors import UsageError
from insight_rl.runtime.settings import RuntimeSettings


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("runtime.max_restarts=-1", r"runtime\.max_restarts=-1: must be at least 0"),
        ("runtime.heartbeat_deadline_s=1", r"runtime\.heartbeat_deadline_s=1: .* from 5 on"),
        ("runtime.heartbeat_deadline_s=inf", r"runtime\.heartbeat_deadline_s=inf"),
        ("runtime.grace_s=0", r"runtime\.grace_s=0: must be above 0 seconds, or null"),
    ],
)
def test_a_setting_that_no_run_could_work_with_is_refused(override, message):
    with pytest.raises(UsageError, match=message):
        build_part("runtime", parse_config(compose_config([override])).runtime)


def test_the_options_have_the_defaults_of_the_class():
    built = build_part("runtime", parse_config(compose_config([])).runtime)
    assert {name: getattr(built, name) for name in vars(RuntimeSettings())} == vars(RuntimeSettings())
