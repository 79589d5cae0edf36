"""Show what a config resolves to and what it would cost; trains nothing."""

import json
import os
from dataclasses import dataclass

from llm.config import Config


@dataclass(frozen=True, kw_only=True)
class Args(Config):
    json: bool = False  # print one JSON object instead of text
    mesh: bool = False  # where each parameter lies on the devices, and a step's memory predicted beside compiled


def run(args: Args, config: Config) -> None:
    from llm import runtime

    if args.mesh:
        _virtual_devices(config)
    runtime.prepare_host()
    from llm.analysis import mesh_plan, plan

    module = mesh_plan if args.mesh else plan
    prediction = getattr(module, module.__name__.rpartition('.')[2])(runtime.resolve(config))
    print(json.dumps(prediction, indent=2) if args.json else module.text(prediction))


def _virtual_devices(config: Config) -> None:
    """Where there is no accelerator, as many CPU devices as the mesh has; XLA reads this when jax starts."""
    parallel = config.parallel
    size = (parallel.data or 1) * parallel.fsdp * parallel.tensor * parallel.context
    flags = os.environ.get('XLA_FLAGS', '')
    if size > 1 and '--xla_force_host_platform_device_count' not in flags:
        os.environ['XLA_FLAGS'] = f'{flags} --xla_force_host_platform_device_count={size}'.strip()
