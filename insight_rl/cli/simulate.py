"""``insight-rl simulate``: selectors side by side on synthetic learners, or replayed on a recorded run."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from insight_rl.cli.own_code import add_own_code_options, allow_own_code
from insight_rl.simulation.settings import SimulationConfig, Variant, load

_EPILOG = """
examples:
  insight-rl simulate                                                      the paper's selectors on a realistic pool
  insight-rl simulate synthetic_learner=hopeless80 selectors=random,insight,insight:forgetting=0.5
  insight-rl simulate synthetic_learner=large synthetic_learner.speed=0.1    a larger pool, a quicker learner
  insight-rl simulate selectors=random,dynamic_sampling,insight            dynamic sampling brings its gate
  insight-rl simulate pool=pass_rates path=FILE selectors=random,insight   real problems and their pass rates
  insight-rl simulate replay=runs/demo selectors=mopps,insight             a recorded run's decision log
  insight-rl simulate --config-dir my_conf selectors=insight,my_selector   a selector of your own

conf/simulate.yaml explains every key; conf/synthetic_learner and conf/pool have the pools.
"""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="insight-rl simulate", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to conf/simulate.yaml")
    add_own_code_options(parser)
    arguments = parser.parse_intermixed_args(argv)
    allow_own_code(arguments)
    config, variants = load(arguments.overrides, config_dir=arguments.config_dir)
    output = Path(config.output_dir or f"runs/simulation_{datetime.now():%Y%m%d-%H%M%S}").expanduser()
    if config.replay is not None:
        return _replay(config, variants, output)
    return _simulate(config, variants, output)


def _simulate(config: SimulationConfig, variants: Sequence[Variant], output: Path) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from insight_rl.simulation.picture import draw_study
    from insight_rl.simulation.study import run_study
    from insight_rl.simulation.table import table, write_raw_numbers

    console = Console()
    started = time.perf_counter()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"{len(variants)} selectors x {config.num_seeds} seeds", total=None)
        study = run_study(
            config, variants, on_progress=lambda done, total: progress.update(task, completed=done, total=total)
        )
    title = (
        f"{_pool(config)}, {config.num_steps} steps of {config.prompts_per_step} x {config.rollouts_per_prompt} "
        f"rollouts, {config.num_seeds} seeds"
    )
    output.mkdir(parents=True, exist_ok=True)
    draw_study(study, output / "simulation.png", title=title)
    write_raw_numbers(study, config, output / "simulation.json")
    console.print(table(study, title=f"{title}; ± is half the 95 % interval"))
    print(f"{time.perf_counter() - started:.0f} s, {output / 'simulation.png'}, {output / 'simulation.json'}")
    return 0


def _pool(config: SimulationConfig) -> str:
    if config.path is not None:
        number = "all" if config.num_prompts is None else f"{config.num_prompts:,}"
        return f"{number} problems of {Path(config.path).name}"
    shares = [(kind, config.synthetic_learner.get(kind)) for kind in ("easy", "learnable", "hopeless")]
    described = ", ".join(f"{share:.0%} {kind}" for kind, share in shares if share is not None)
    return f"{config.num_prompts:,} prompts ({described})"


def _replay(config: SimulationConfig, variants: Sequence[Variant], output: Path) -> int:
    import numpy as np
    from rich.console import Console

    from insight_rl.seeding import derive_seed
    from insight_rl.simulation.picture import draw_replay
    from insight_rl.simulation.replay import HINDSIGHT, RECORDED, caveats, load_recording, replay
    from insight_rl.simulation.table import replay_table, write_replay_numbers

    recording = load_recording(Path(str(config.replay)).expanduser())
    seeds = [derive_seed(config.seed, "replay", seed) for seed in range(config.num_seeds)]
    fractions = {
        RECORDED: recording.informative_fractions()[None],
        HINDSIGHT: recording.best_fractions(config.replay_share)[None],
    }
    for variant in variants:
        fractions[variant.label] = replay(recording, variant, share=config.replay_share, seeds=seeds)
    output.mkdir(parents=True, exist_ok=True)
    title = f"Replay of {recording.run_dir.name} (selector={recording.selector})"
    steps = np.array([step.step[0] for step in recording.steps])
    draw_replay(fractions, steps, output / "replay.png", title=title)
    write_replay_numbers(fractions, steps, config, output / "replay.json")
    console = Console()
    console.print(replay_table(fractions, title=title))
    console.print(caveats(recording, config.replay_share), highlight=False)
    print(f"{output / 'replay.png'}, {output / 'replay.json'}")
    return 0
