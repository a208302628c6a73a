#!/usr/bin/env bash
# Builds the sdist and the wheel, and checks them as a stranger would meet them: installed from the index into an empty
# environment, run from an empty folder. Uploads nothing unless told:
#   bash scripts/release.sh               build and check; takes some minutes and 2 GB of disk, given back at the end
#   bash scripts/release.sh --upload      the same, then upload with twine; only from a clean checkout at the tag v<version>
# Environment: DIST=folder for the two files (default dist/), PYTHON=python3.12, PIP_* as everywhere.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install_lib.sh"

UPLOAD=no
case "${1:-}" in
"") ;;
--upload) UPLOAD=yes ;;
*) die "there is no option $1; give --upload or nothing" ;;
esac

DIST="$(realpath -m "${DIST:-$ROOT/dist}")"
WORK="$(mktemp -d)"
trap 'rm -rf "$WORK"' EXIT
cd "$ROOT"
# Only what is installed counts, not this checkout.
unset PYTHONPATH
seconds=$SECONDS
step() {
    say "[$((SECONDS - seconds)) s] $*"
}

version="$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' insight_rl/__init__.py)"
heading="$(grep -m1 '^## ' CHANGELOG.md)"
[[ "$heading" =~ ^##\ ([^ ]+)(\ \((.*)\))?$ ]] || die "CHANGELOG.md: '$heading' is no heading of a version"
[ "${BASH_REMATCH[1]}" = "$version" ] ||
    die "CHANGELOG.md begins with ${BASH_REMATCH[1]}, insight_rl/__init__.py says $version; make them the same"
released="${BASH_REMATCH[3]}"
tag="$(git describe --exact-match --tags HEAD 2>/dev/null || true)"
[ -z "$tag" ] || [ "$tag" = "v$version" ] || die "the tag here is $tag, the version is $version; make them the same"
if [ "$UPLOAD" = yes ]; then
    [ "$released" != unreleased ] || die "CHANGELOG.md says '$heading'; give the day of the release in its place"
    [ -n "$tag" ] || die "there is no tag here; tag the release first: git tag v$version"
    [ -z "$(git status --porcelain)" ] || die "files differ from the tag; commit or remove them"
fi

step "building $version"
VENV="$WORK/build" make_venv
VENV="$WORK/build" pip_install build twine
rm -rf "$WORK/dist"
"$WORK/build/bin/python" -m build --outdir "$WORK/dist" . >"$WORK/build.log" 2>&1 || {
    tail -20 "$WORK/build.log" >&2
    die "the build failed"
}
"$WORK/build/bin/twine" check --strict "$WORK/dist"/* >&2
wheel="$(ls "$WORK/dist"/*.whl)"
sdist="$(ls "$WORK/dist"/*.tar.gz)"
[ "$(basename "$wheel")" = "insight_rl-$version-py3-none-any.whl" ] || die "$(basename "$wheel") is another version than $version"

step "looking into $(basename "$wheel") and $(basename "$sdist")"
"$WORK/build/bin/python" - "$wheel" "$sdist" <<'PYTHON'
import ast, re, sys, tarfile, zipfile
from email.parser import Parser
from pathlib import Path

wheel = zipfile.ZipFile(sys.argv[1])
names = set(wheel.namelist())
tracked = Path("insight_rl").rglob("*.py")
wanted = {str(path) for path in tracked} | {f"insight_rl/{path}" for folder in ("conf", "data") for path in Path(folder).rglob("*") if path.is_file()}
missing = sorted(wanted - names)
assert not missing, f"the wheel lacks {missing[:5]}"
strange = sorted(name for name in names - wanted if not re.match(r"insight_rl(-[^/]+\.dist-info)?/", name))
assert not strange, f"the wheel holds {strange[:5]}"
(metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
requirements = Parser().parsestr(wheel.read(metadata).decode()).get_all("Requires-Dist")
core = sorted(re.match(r"[\w.-]+", each)[0] for each in requirements if "extra ==" not in each)
tree = ast.parse(Path("tests/contract/test_core_install.py").read_text())
fixed = next(ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "CORE")
assert core == sorted(fixed), f"the wheel asks for {core}, not for {fixed}"
sources = tarfile.open(sys.argv[2]).getnames()
assert any(name.endswith("/pyproject.toml") for name in sources) and any(name.endswith("/conf/train.yaml") for name in sources)
print(f"wheel: {len(names)} files; it asks for {len(core)} packages, as before; sdist: {len(sources)} files", file=sys.stderr)
PYTHON

step "installing the wheel into an empty environment"
VENV="$WORK/check"
make_venv
pip_install --constraint constraints.txt torch
pip_install --constraint constraints.txt "$wheel"
"$VENV/bin/python" -m pip check >&2

step "running it from an empty folder"
mkdir "$WORK/elsewhere"
cd "$WORK/elsewhere"
export PATH="$VENV/bin:$PATH"
[ "$(insight-rl --version)" = "$version" ] || die "insight-rl --version says $(insight-rl --version), not $version"
insight-rl --help | grep -q "usage: insight-rl COMMAND" || die "insight-rl --help does not explain itself"
insight-rl train --cfg experiment=quickstart >cfg.yaml
grep -q "^selector:" cfg.yaml || die "insight-rl train --cfg prints no configuration"
python - <<'PYTHON'
import sys
from insight_rl.paths import conf_dir, data_dir

for folder in (conf_dir(), data_dir()):
    assert str(folder).startswith(sys.prefix), f"{folder} is not in the installed package"
PYTHON
insight-rl completion bash | bash -n
insight-rl train experiment=quickstart trainer.num_steps=1 trainer.prompts_per_step=4 trainer.prompts_per_update=4 \
    trainer.rollouts_per_prompt=2 evaluation.max_problems=4 run_dir=run >run.log 2>&1 || {
    tail -20 run.log >&2
    die "a training step failed"
}
insight-rl push run_dir=run repo=user/name dry_run=true >push.log
[ -f run/hub/model/README.md ] || die "push wrote no card"
insight-rl env >&2
step "$(python -m pip list --format=freeze | wc -l) packages in the environment, $(du -sm "$VENV" | cut -f1) MB"

mkdir -p "$DIST"
cp "$wheel" "$sdist" "$DIST/"
if [ "$UPLOAD" = yes ]; then
    step "uploading"
    "$WORK/build/bin/twine" upload "$DIST/$(basename "$wheel")" "$DIST/$(basename "$sdist")"
else
    step "done; nothing was uploaded"
fi
du -k "$DIST/$(basename "$wheel")" "$DIST/$(basename "$sdist")"
