"""What ``runtime=ray`` refuses before it has connected to anything, and without Ray being imported."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys

import pytest

from insight_rl.build import build_part
from insight_rl.config import compose_config, parse_config
from insight_rl.errors import UsageError
from insight_rl.placement import Placement
from insight_rl.runtime.ray import RayRuntime

NOTHING = Placement(ranks=("cpu",), workers=())


@pytest.mark.parametrize("address", ["auto", None, "10.0.0.7:6379", "head.cluster.local:6379", "[::1]:6379"])
def test_an_address_is_taken(address):
    assert RayRuntime(address=address).address == address


@pytest.mark.parametrize("address", ["", "head", "head:", "head:port", "ray://head:10001", "head:6379/x", ":6379"])
def test_another_address_is_refused(address):
    with pytest.raises(UsageError, match=r"runtime\.address=.*HOST:PORT"):
        RayRuntime(address=address)


@pytest.mark.parametrize(
    ("settings", "key"), [({"cpus_per_process": 0}, "cpus_per_process"), ({"wait_s": 0.0}, "wait_s")]
)
def test_numbers_that_no_run_could_work_with_are_refused(settings, key):
    with pytest.raises(UsageError, match=rf"runtime\.{key}="):
        RayRuntime(**settings)


def test_the_option_has_the_defaults_of_the_class_and_the_settings_of_every_runtime():
    config = parse_config(compose_config(["runtime=ray"])).runtime
    assert vars(build_part("runtime", config)) == vars(RayRuntime())
    local = parse_config(compose_config([])).runtime
    assert {key: config[key] for key in local if key != "_target_"} == {
        key: value for key, value in local.items() if key != "_target_"
    }


def test_without_ray_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"runtime=ray: Ray is not installed.*insight-rl\[ray\]"):
        RayRuntime().count_gpus()


def test_an_address_where_nobody_answers_is_told_at_once():
    pytest.importorskip("ray")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UsageError, match=rf"runtime\.address={address}: no Ray cluster answers there") as error:
            RayRuntime(address=address).reserve(NOTHING, [])
    assert "\n" not in str(error.value)


def test_ray_is_imported_with_this_runtime_alone():
    code = (
        "import sys, insight_rl.run\n"
        "from insight_rl.build import build_part\n"
        "for name in ('local.Local', 'ray.Ray'):\n"
        "    build_part('runtime', {'_target_': f'insight_rl.runtime.{name}Runtime'})\n"
        "assert 'ray' not in sys.modules, 'imported for nothing'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
