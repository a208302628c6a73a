#!/usr/bin/env bash
# All of docs/results.md, "Selectors compared": a night on two cores. Each part goes on where it was cut short.
#   bash scripts/reproduce_full.sh              every part
#   bash scripts/reproduce_full.sh repeats      one of them: repeats, or the name of a plan in PARTS below
# Reports lie in runs/compare_<setting>; a copy of their CSV files and pictures is what docs/results holds.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install_lib.sh"

install_package ""
cd "$ROOT"
PARTS=("$@")
[ ${#PARTS[@]} -gt 0 ] || PARTS=(
    repeats countdown mixed large_pool mixed_long mixed_tuned large_pool_features sampling_2x2 advantage_2x2 graded_rewards
)
for part in "${PARTS[@]}"; do
    say "=== $part"
    if [ "$part" = repeats ]; then
        "$VENV/bin/python" scripts/measure_repeats.py
    else
        "$VENV/bin/insight-rl" compare "compare=$part"
    fi
done
