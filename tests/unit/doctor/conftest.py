"""Runs as the doctor sees them."""

import pytest

from insight_rl.config import compose_config, parse_config
from insight_rl.doctor.cards import CARDS
from insight_rl.doctor.workload import read_workload


@pytest.fixture(scope="session")
def workload():
    return lambda *overrides: read_workload(parse_config(compose_config(list(overrides))))


@pytest.fixture(scope="session")
def h100():
    return CARDS["h100-80gb"]
