"""Train every config of a space, each in a workdir of its own; the same command goes on where it stopped."""

import pathlib
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from llm.config import Config
from llm.errors import UserError
from llm.sweep.options import SweepOptions


@dataclass(frozen=True, kw_only=True)
class Args(Config, SweepOptions):
    out: pathlib.Path  # folder of the sweep; made if there is none
    vary: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()  # FIELD=VALUE,VALUE,...; repeat it for a grid
    seeds: int = 0  # repetitions of every point: seeds 0, 1, ... of weights and data order; 0 is the config's seed
    dry_run: bool = False  # print the runs and what they would cost, and stop

    def __post_init__(self):
        Config.__post_init__(self)
        SweepOptions.__post_init__(self)


def run(args: Args, config: Config, file: str | None) -> None:
    from llm import runtime
    from llm.config_file import load_space
    from llm.sweep import space

    if args.seeds < 0:
        raise UserError(f'--seeds is {args.seeds}; it must be at least 1, or 0 for the seed of the config')
    axes = [load_space(file) if file else space.BASE, *map(space.parse_axis, args.vary)]
    if args.seeds:
        axes.append(space.seeds(args.seeds))
    configs = space.configs(config, space.product(*axes))
    runtime.prepare_host()
    if args.dry_run:
        _forecast(args, configs)
        return
    from llm.sweep import registry
    from llm.sweep.experiment import run_sweep

    try:
        run_sweep(args.out, configs, args)
    finally:
        if (args.out / 'sweep.json').is_file():
            print(registry.text(registry.rows(registry.open_sweep(args.out))))
    print(f'page: {args.out}/sweep.html; table: table.csv and table.parquet beside it', file=sys.stderr)


def _forecast(args: Args, configs: dict[str, Config]) -> None:
    from llm.sweep import forecast, registry

    runs = registry.open_sweep(args.out) if (args.out / 'sweep.json').is_file() else []
    reached = forecast.speed(runs)
    bound = None if reached else forecast.bound(configs)
    print(forecast.text(forecast.forecasts(configs, reached or bound)))
    if reached:
        print(f'time at the median speed of the runs done here, {reached / 1e9:.3g} GFLOP/s, one after the other')
    else:
        print(
            f'time at the speed of one matrix product here, {bound / 1e9:.3g} GFLOP/s, one after the other: runs take '
            'some times as long, and once one has finished here it is known'
        )
