#!/usr/bin/env bash
# One row of the published comparison again (docs/results.md, "Selectors compared"): expected_signal against uniform
# selection on the mixed pool (setting b), the same ten seeds, on two cores in under 15 minutes.
#   bash scripts/reproduce_quick.sh                     that row
#   bash scripts/reproduce_quick.sh insight             another arm's row
#   bash scripts/reproduce_quick.sh insight countdown   the same in setting a (large_pool: setting c)
# Run again, it goes on where it was cut short. The report lies in runs/reproduce_quick_<setting>_<arm>.
set -euo pipefail
ARM="${1:-expected_signal}"
PLAN="${2:-mixed}"
source "$(dirname "${BASH_SOURCE[0]}")/install_lib.sh"

install_package ""
cd "$ROOT"
# The plan without its other arms.
others=()
while read -r name; do
    [ "$name" = random ] || [ "$name" = "$ARM" ] || others+=("~arms.$name")
done < <(sed -n 's/^  \([a-z_]*\): \[selector=.*/\1/p' conf/compare/shared/selectors.yaml)
exec "$VENV/bin/insight-rl" compare "compare=$PLAN" "${others[@]}" "output_dir=runs/reproduce_quick_${PLAN}_$ARM"
