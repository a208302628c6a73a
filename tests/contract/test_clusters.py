"""What docs/clusters.md starts on clusters: scripts, manifests, and how slurm.sh behaves. No cluster is involved."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
COMPOSE = sorted((ROOT / "docker").glob("*.yaml"))
COMPOSE.remove(ROOT / "docker" / "kuberay.yaml")
KUBERAY = list(yaml.safe_load_all((ROOT / "docker" / "kuberay.yaml").read_text()))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_sound_shell(script):
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--external-sources", "--source-path=SCRIPTDIR", script], check=True)


# ---------------------------------------------------------------------------------------------------------------------
# Manifests. Keys that a schema does not know are dropped without a word (Kubernetes) or refused (compose).

ANY = object()
"""What stands below is not looked at."""
RESOURCES = {"requests": ANY, "limits": ANY}
CONTAINER = {
    "name": ANY,
    "image": ANY,
    "ports": {"name": ANY, "containerPort": ANY},
    "env": {"name": ANY, "value": ANY},
    "resources": RESOURCES,
    "volumeMounts": {"name": ANY, "mountPath": ANY},
}
POD = {
    "spec": {
        "securityContext": {"fsGroup": ANY},
        "containers": CONTAINER,
        "volumes": {
            "name": ANY,
            "persistentVolumeClaim": {"claimName": ANY},
            "emptyDir": {"medium": ANY, "sizeLimit": ANY},
        },
    }
}
# Source: RayJobSpec, RayClusterSpec, HeadGroupSpec and WorkerGroupSpec of KubeRay 1.7, ray-operator/apis/ray/v1;
# pods and claims: the API reference of Kubernetes (core/v1), of it what is used here.
RAY_JOB = {
    "apiVersion": ANY,
    "kind": ANY,
    "metadata": {"name": ANY},
    "spec": {
        "activeDeadlineSeconds": ANY,
        "backoffLimit": ANY,
        "entrypoint": ANY,
        "preRunningDeadlineSeconds": ANY,
        "shutdownAfterJobFinishes": ANY,
        "submissionMode": ANY,
        "submitterConfig": {"backoffLimit": ANY},
        "suspend": ANY,
        "ttlSecondsAfterFinished": ANY,
        "rayClusterSpec": {
            "rayVersion": ANY,
            "headGroupSpec": {"rayStartParams": ANY, "serviceType": ANY, "template": POD},
            "workerGroupSpecs": {
                "groupName": ANY,
                "replicas": ANY,
                "minReplicas": ANY,
                "maxReplicas": ANY,
                "numOfHosts": ANY,
                "rayStartParams": ANY,
                "template": POD,
            },
        },
    },
}
CLAIM = {
    "apiVersion": ANY,
    "kind": ANY,
    "metadata": {"name": ANY},
    "spec": {"accessModes": ANY, "resources": RESOURCES, "storageClassName": ANY},
}
# Source: the compose specification (compose-spec.io), services/ and deploy; of it what is used here.
SERVICE = {
    "build": {"context": ANY, "dockerfile": ANY, "args": ANY},
    "command": ANY,
    "depends_on": {"selector": {"condition": ANY}},
    "deploy": {"resources": {"reservations": {"devices": {"driver": ANY, "count": ANY, "capabilities": ANY}}}},
    "entrypoint": ANY,
    "environment": ANY,
    "healthcheck": {"test": ANY, "interval": ANY, "retries": ANY},
    "image": ANY,
    "init": ANY,
    "network_mode": ANY,
    "profiles": ANY,
    "restart": ANY,
    "shm_size": ANY,
    "stop_grace_period": ANY,
    "ulimits": {"memlock": ANY, "nofile": ANY},
    "volumes": ANY,
}


def unknown_keys(node: Any, schema: Any, path: str = "") -> Iterator[str]:
    """Keys of ``node`` that ``schema`` lacks; a list has the schema of its items."""
    if isinstance(node, list):
        for item in node:
            yield from unknown_keys(item, schema, path)
    elif isinstance(node, dict) and schema is not ANY:
        for key, value in node.items():
            if key in schema:
                yield from unknown_keys(value, schema[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"


def test_an_unknown_key_is_found_at_every_depth():
    node = {"a": [{"b": 1}, {"c": {"d": 2}}], "e": 3}
    assert list(unknown_keys(node, {"a": {"b": ANY, "c": {}}})) == [".a.c.d", ".e"]
    assert list(unknown_keys(node, {"a": ANY, "e": ANY})) == []


def test_the_kuberay_manifest_has_keys_that_kuberay_knows():
    assert [document["kind"] for document in KUBERAY] == ["PersistentVolumeClaim", "RayJob"]
    claim, job = KUBERAY
    assert list(unknown_keys(claim, CLAIM)) == []
    assert list(unknown_keys(job, RAY_JOB)) == []
    assert (claim["apiVersion"], job["apiVersion"]) == ("v1", "ray.io/v1")


def pods() -> list[tuple[dict[str, str], dict[str, Any]]]:
    """Arguments of ``ray start`` and pod of the head and of every group of workers."""
    cluster = KUBERAY[1]["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [(group["rayStartParams"], group["template"]["spec"]) for group in groups]


def test_every_pod_has_shared_memory_for_more_than_the_object_store():
    for start, pod in pods():
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        memory = mounts["/dev/shm"]["emptyDir"]
        assert memory["medium"] == "Memory"
        size = int(memory["sizeLimit"].removesuffix("Gi")) << 30
        assert 2 * int(start["object-store-memory"]) < size
        assert size < int(container["resources"]["limits"]["memory"].removesuffix("Gi")) << 30
        assert mounts["/shared"]["persistentVolumeClaim"]["claimName"] == KUBERAY[0]["metadata"]["name"]
        # What Kubernetes and Ray read as text must not be a number.
        assert all(isinstance(each, str) for each in start.values())
        assert all(isinstance(each["value"], str) for each in container.get("env", ()))


def test_the_manifest_asks_for_as_many_gpus_as_its_run_takes():
    job = KUBERAY[1]["spec"]
    gpus = sum(
        group["replicas"] * int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        for group in job["rayClusterSpec"]["workerGroupSpecs"]
    )
    settings = dict(each.split("=", 1) for each in job["entrypoint"].split()[2:])
    assert settings["learner.num_ranks"] == settings["rollout.num_workers"] == str(gpus)
    assert settings["run_dir"].startswith("/shared/")


def test_ray_is_the_one_of_the_image():
    version = KUBERAY[1]["spec"]["rayClusterSpec"]["rayVersion"]
    assert f"ray=={version}\n" in (ROOT / "constraints.txt").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    # Job submission and the health checks of KubeRay need Ray's agent, which plain ray lacks.
    assert [each.split(">")[0] for each in extras["ray"]] == ["ray[default]"]


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.name)
def test_compose_files_have_keys_that_compose_knows(file):
    tree = yaml.safe_load(file.read_text())
    assert {key for key in tree if not key.startswith("x-")} <= {"name", "services", "volumes"}
    for name, service in tree["services"].items():
        assert list(unknown_keys(service, SERVICE)) == [], name
        # Docker's own 64 MB are too little for every service that trains.
        assert name == "selector" or "shm_size" in service


def test_the_two_machines_share_network_and_folder():
    services = yaml.safe_load((ROOT / "docker" / "two_machines.yaml").read_text())["services"]
    for service in services.values():
        assert service["network_mode"] == "host"
        assert service["volumes"] == ["${SHARED:?folder that both machines mount}:/shared"]
        (command,) = service["command"]
        # A single $ would be filled in by compose, from the machine's environment in the place of the container's.
        assert re.search(r"(?<!\$)\$(?!\$)", command) is None
        subprocess.run(["bash", "-n", "-c", command.replace("$$", "$")], check=True)


def test_the_page_has_the_commands_of_the_files():
    page = (ROOT / "docs" / "clusters.md").read_text()
    for file in ("docker/two_machines.yaml", "docker/kuberay.yaml", "scripts/slurm.sh"):
        head = re.findall(r"^#   (\S(?:.*\\\n#  .*|.*))$", (ROOT / file).read_text(), re.MULTILINE)
        assert head, file
        wanted = ["    " + command.replace("\n#   ", "\n    ") + "\n" for command in head]
        assert [command for command in wanted if command not in page] == []


# ---------------------------------------------------------------------------------------------------------------------
# slurm.sh, with programs in the place of SLURM's and Ray's. They stand for what the script relies on and no more: that
# srun runs a command until it ends or is ended, and that exit codes and signals arrive.

STAND_INS = {
    "scontrol": """
        if [ "$1" = show ]; then tr , '\\n' <<<"$3"; else echo "scontrol $*" >>"$LOG"; fi""",
    "srun": """
        node=$(sed 's/.*--nodelist=\\([^ ]*\\).*/\\1/' <<<"$*")
        while [[ "$1" == --* ]]; do shift; done
        NODE=$node SLURM_CPUS_ON_NODE=7 exec "$@" """,
    "python": """
        echo "python $*" >>"$LOG" """,
    "ray": """
        [ "$1" = status ] && exec test -e "$LOG.head"
        echo "$NODE ray $*" >>"$LOG"
        [[ "$*" != *--head* ]] || touch "$LOG.head"
        trap 'echo "$NODE ended" >>"$LOG"; exit 0' TERM
        echo "$NODE waits" >>"$LOG"
        while true; do sleep 0.05; done""",
    "insight-rl": """
        echo "insight-rl $*" >>"$LOG"
        trap 'echo "the step ends" >>"$LOG"; sleep 0.2; exit "$(cat "$LOG.code" || echo 143)"' TERM
        echo training >>"$LOG"
        for _ in {1..200}; do [ -e "$LOG.finish" ] && exit "$(cat "$LOG.finish")"; sleep 0.05; done
        exit 9""",
}


@pytest.fixture
def job(tmp_path):
    """Starts slurm.sh as a job of two nodes; ends what is left of it."""
    for name, script in STAND_INS.items():
        file = tmp_path / ".venv" / "bin" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/usr/bin/env bash\n{script}\n")
        file.chmod(0o755)
    environment = os.environ | {
        "LOG": str(tmp_path / "log"),
        "SLURM_JOB_ID": "41234",
        "SLURM_JOB_NODELIST": "node-a,node-b",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "RAY_HEAD_IP": "10.0.0.1",
    }
    environment.pop("VENV", None)
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
        command = ["bash", str(ROOT / "scripts" / "slurm.sh"), *arguments]
        process = subprocess.Popen(
            command, env=environment | variables, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_until_training(log: Path) -> None:
    """Until the trainer runs and every node waits for its end."""
    deadline = time.monotonic() + 120
    while not log.exists() or {"node-a waits", "node-b waits", "training"} - set(log.read_text().splitlines()):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def test_slurm_starts_ray_on_every_node_and_ends_it(job, tmp_path):
    process = job("run_dir=/shared/runs/a", "seed=1")
    wait_until_training(tmp_path / "log")
    (tmp_path / "log.finish").write_text("0")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    log = (tmp_path / "log").read_text().splitlines()
    head = (
        "node-a ray start --block --num-cpus=7 --head --node-ip-address=10.0.0.1 --port=21234 --include-dashboard=false"
    )
    wait = f"python {tmp_path}/scripts/wait_for_ray.py 10.0.0.1:21234 2"
    train = "insight-rl train run_dir=/shared/runs/a seed=1 runtime=ray runtime.address=10.0.0.1:21234"
    assert log[0] == head
    assert {"node-b ray start --block --num-cpus=7 --address=10.0.0.1:21234", wait, train} < set(log[1:-2])
    assert log.index(wait) < log.index(train)
    assert sorted(log[-2:]) == ["node-a ended", "node-b ended"]


@pytest.mark.parametrize(
    ("number", "code", "is_queued_again"),
    [
        pytest.param(signal.SIGUSR1, 143, True, id="time-is-over"),
        pytest.param(signal.SIGTERM, 143, False, id="cancelled"),
        pytest.param(signal.SIGUSR1, 0, False, id="done-at-the-end"),
        pytest.param(signal.SIGUSR1, 1, False, id="failed-at-the-end"),
    ],
)
def test_a_signal_lets_the_step_finish(number, code, is_queued_again, job, tmp_path):
    (tmp_path / "log.code").write_text(str(code))
    process = job("run_dir=/shared/runs/a")
    wait_until_training(tmp_path / "log")
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == code
    log = (tmp_path / "log").read_text().splitlines()
    step, again = log.index("the step ends"), "scontrol requeue 41234"
    assert (again in log[step:]) == is_queued_again
    assert {"node-a ended", "node-b ended"} < set(log[step:])


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        ([], {}, "run_dir=... is missing"),
        (["run_dir=a"], {"SLURM_JOB_ID": ""}, "there is no SLURM job"),
        (["run_dir=a"], {"VENV": "/nowhere", "PATH": "/usr/bin:/bin"}, "there is no insight-rl in /nowhere"),
        (["run_dir=a"], {"RAY_HEAD_IP": "127.0.1.1"}, "name it: RAY_HEAD_IP=..."),
    ],
)
def test_what_cannot_work_is_said(arguments, variables, message, job):
    process = job(*arguments, **variables)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert message in errors
