"""Tests that share an engine run in one process: else each process starts an engine of its own, and nothing says so."""

import pytest


@pytest.mark.xdist_group("shared engine")
def test_a_group_of_tests_stays_together(request):
    if not request.config.getoption("loadgroup", False):
        pytest.skip("the tests run in one process")
    # The scheduler reads the group from there; pytest 9.2 did not let pytest-xdist write it.
    assert request.node.nodeid.endswith("@shared engine")
