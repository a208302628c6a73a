#!/usr/bin/env bash
# One training run on several nodes of a SLURM cluster: a Ray node on each of them, and the trainer on the first. From
# the repository's root, with run_dir (and data and model) on a file system that every node mounts:
#   sbatch --nodes=2 --gpus-per-node=8 scripts/slurm.sh run_dir=/shared/runs/first experiment=paper_countdown_7b \
#     learner.num_ranks=16 rollout.num_workers=16
# What stands after the script goes to `insight-rl train`. docs/clusters.md says what happens when a node fails.
#SBATCH --job-name=insight-rl
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --output=insight-rl_%j.log
#SBATCH --open-mode=append
# A node that fails ends the job; SLURM then puts it into the queue again, and the run goes on from its newest checkpoint.
#SBATCH --requeue
# To this shell alone, so many seconds before the time is over: more than a step and its checkpoint take.
#SBATCH --signal=B:USR1@900
set -euo pipefail

say() { printf 'slurm.sh: %s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 2
}

[ -n "${SLURM_JOB_ID:-}" ] || die "there is no SLURM job; start it with: sbatch --nodes=2 scripts/slurm.sh run_dir=..."
[[ " $* " == *" run_dir="* ]] || die "run_dir=... is missing: a job that is queued again finds its run by it"

# SLURM runs a copy of this file, so its own path does not lead to the repository.
VENV="${VENV:-$SLURM_SUBMIT_DIR/.venv}"
export PATH="$VENV/bin:$PATH"
command -v insight-rl >/dev/null || die "there is no insight-rl in $VENV; name another environment: VENV=/shared/venv"
command -v ray >/dev/null || die "there is no ray in $VENV: pip install 'insight-rl[ray]'"

ulimit -n "$(ulimit -Hn)"
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_ip="${RAY_HEAD_IP:-$(getent ahostsv4 "${nodes[0]}" | awk 'NR == 1 { print $1 }')}"
[[ -n "$head_ip" && "$head_ip" != 127.* ]] ||
    die "${nodes[0]} has no address that other nodes can reach (found: ${head_ip:-none}); name it: RAY_HEAD_IP=..."
# Another port for each job, between the ports of Ray's workers and those that the system hands out.
address="$head_ip:${RAY_PORT:-$((20000 + SLURM_JOB_ID % 10000))}"

steps=()
# ray_node NODE ARGUMENTS: runs until the job ends. Each node is a step of its own, so that one that fails ends no other.
ray_node() {
    local node="$1"
    shift
    # SLURM_CPUS_ON_NODE is the node's own; Ray would count the cores of the machine, allotted to the job or not.
    # shellcheck disable=SC2016
    srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" --cpu-bind=none \
        bash -c 'exec ray start --block --num-cpus="$SLURM_CPUS_ON_NODE" "$@"' ray "$@" &
    steps+=("$!")
}

# shellcheck disable=SC2317,SC2329
end_steps() {
    trap - EXIT
    kill "${steps[@]}" 2>/dev/null || true
    wait "${steps[@]}" 2>/dev/null || true
}
trap end_steps EXIT

ray_node "${nodes[0]}" --head --node-ip-address="$head_ip" --port="${address##*:}" --include-dashboard=false
for attempt in {1..60}; do
    ray status --address "$address" >/dev/null 2>&1 && break
    kill -0 "${steps[0]}" 2>/dev/null || die "Ray did not start on ${nodes[0]}; its message stands above"
    [ "$attempt" -lt 60 ] || die "Ray on ${nodes[0]} does not answer at $address"
    sleep 2
done
for node in "${nodes[@]:1}"; do
    ray_node "$node" --address="$address"
done

# The run counts the GPUs when it starts.
python "$SLURM_SUBMIT_DIR/scripts/wait_for_ray.py" "$address" "${#nodes[@]}"

# USR1: the time is nearly over. TERM: somebody ends the job. Both let the trainer finish its step and its checkpoint.
out_of_time=false
trainer=
# shellcheck disable=SC2317,SC2329
ask_to_stop() {
    interrupted=true
    say "$1: asking the trainer to finish its step and its checkpoint"
    kill -TERM "$trainer" 2>/dev/null || true
}
trap 'out_of_time=true; ask_to_stop "the time is nearly over"' USR1
trap 'ask_to_stop "the job is to end"' TERM INT

say "Ray at $address on ${#nodes[@]} nodes: ${nodes[*]}"
insight-rl train "$@" runtime=ray runtime.address="$address" &
trainer=$!
# A signal ends the waiting, not the trainer.
while true; do
    interrupted=false
    code=0
    wait "$trainer" || code=$?
    "$interrupted" || break
done

# 143: stopped after a checkpoint. Only the end of the time is a reason to go on: a job that somebody ended stays ended.
if "$out_of_time" && [ "$code" -eq 143 ]; then
    say "queued again; the run goes on from its checkpoint"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
