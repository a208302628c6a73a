#!/usr/bin/env bash
# All that has to pass before a change lands: sets up what the tests need, vLLM and DeepSpeed included, then runs ruff,
# mypy and the tests, the fast ones first. What follows the command goes to pytest:
#   bash scripts/test.sh -m "not slow"
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install_lib.sh"

command -v g++ >/dev/null || die "there is no g++, which DeepSpeed needs at its first use; on Debian and Ubuntu: apt-get install g++"
install_package "[cpu,dashboard,dev,docs,gym,ray,serve,tensorboard,trackio,trl,verifiers]"
install_verl

# One thread each: the models are tiny, and several processes share the cores.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 WANDB_MODE=offline
# The scripts that tests start by name are those of this environment.
export PATH="$VENV/bin:$PATH"
cd "$ROOT"

say "ruff and mypy"
ruff check .
ruff format --check .
mypy
# Three at a time, also on two cores: they often wait for processes of their own. Tests that share an engine stay together.
exec python -m pytest --numprocesses 3 --dist loadgroup "$@"
