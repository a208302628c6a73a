#!/usr/bin/env bash
# From a fresh clone to a trained model: makes .venv, installs insight_rl without vLLM and DeepSpeed, and trains the
# bundled tiny model on Countdown. What follows the command goes to `insight-rl train`:
#   bash scripts/quickstart.sh seed=1 trainer.num_steps=20
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install_lib.sh"

install_package ""
exec "$VENV/bin/insight-rl" train experiment=quickstart "$@"
