"""Waits until a Ray cluster has as many machines as the run is to have: a run counts the GPUs when it starts.

    python scripts/wait_for_ray.py 10.0.0.1:6379 2

On a machine of the cluster, whose head has been started. Ends with 1, and a line, if they do not come in time.
"""

from __future__ import annotations

import argparse
import sys
import time

import ray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="HOST:PORT of the head")
    parser.add_argument("num_machines", type=int)
    parser.add_argument("--timeout-s", type=float, default=600.0)
    arguments = parser.parse_args()
    ray.init(address=arguments.address, log_to_driver=False, logging_level="ERROR")
    deadline = time.monotonic() + arguments.timeout_s
    while (there := sum(node["Alive"] for node in ray.nodes())) < arguments.num_machines:
        if time.monotonic() > deadline:
            sys.exit(
                f"{there} of {arguments.num_machines} machines joined the Ray cluster at {arguments.address} within "
                f"{arguments.timeout_s:g} s; what the others say stands in their logs"
            )
        time.sleep(1)


if __name__ == "__main__":
    main()
