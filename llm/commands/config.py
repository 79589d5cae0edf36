"""Show what a config resolves to and what it would cost; trains nothing."""

import json
from dataclasses import dataclass

from llm.config import Config


@dataclass(frozen=True, kw_only=True)
class Args(Config):
    json: bool = False  # print one JSON object instead of text


def run(args: Args, config: Config) -> None:
    from llm import runtime

    runtime.prepare_host()
    from llm.analysis import plan

    prediction = plan.plan(runtime.resolve(config))
    print(json.dumps(prediction, indent=2) if args.json else plan.text(prediction))
