"""What is trained, and on how much."""

import dataclasses
import json
from dataclasses import dataclass

SHOWN = (0, 27, 50)  # held-out prompts whose responses people can read


@dataclass(frozen=True)
class Plan:
    """The experiment's settings; coefficients are in deviations of the proxy per nat."""

    seeds: tuple[int, ...] = (0, 1, 2)  # whole repetitions: initial weights, demonstrations, labels, orders, samples

    demonstrations: int = 32_768  # for SFT
    sft_steps: int = 400
    sft_batch: int = 256  # demonstrations per step
    sft_learning_rate: float = 3e-3

    pairs_per_prompt: int = 76  # responses of the SFT model compared by the labeller, to each training prompt
    sizes: tuple[int, ...] = (2_500, 7_000, 20_000)  # pairs that a reward model learns from; the first is the weak one
    members: int = 4  # reward models of the ensemble, on the smallest data
    reward_batch: int = 64  # pairs per step; one epoch, as in Ouyang et al. (2022)
    reward_learning_rate: float = 1e-3

    pool: int = 256  # responses of the SFT model to each held-out prompt, for best-of-n
    ns: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
    samples: int = 12  # responses of a trained policy to each held-out prompt, at each look

    betas: tuple[float, ...] = (3.0, 1.0, 0.3, 0.1, 0.03)  # of DPO
    dpo_epochs: int = 3  # over the smallest data
    dpo_batch: int = 64  # pairs per step
    dpo_learning_rate: float = 1e-3

    looks: tuple[int, ...] = (
        4,
        8,
        12,
        16,
        20,
        24,
        30,
        36,
        44,
        56,
        70,
        85,
        100,
    )  # RL steps after which policies are measured
    coefficients: tuple[float, ...] = (1.0, 0.4, 0.15, 0.0)  # of the KL penalty of PPO and GRPO
    ensemble_coefficients: tuple[float, ...] = (0.15, 0.0)  # with an ensemble as the judge
    responses: int = 128  # per RL step
    group: int = 8  # responses to each prompt in GRPO; PPO draws one
    ppo_epochs: int = 2  # updates from each rollout
    rl_learning_rate: float = 4e-4

    targets: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)  # nats at which methods are compared

    @property
    def rl_steps(self) -> int:
        return self.looks[-1]


FULL = Plan()
QUICK = dataclasses.replace(
    FULL,
    seeds=(0,),
    demonstrations=4_096,
    sft_steps=60,
    sft_batch=128,
    pairs_per_prompt=4,
    sizes=(500, 1_000),
    members=2,
    pool=64,
    ns=(1, 2, 4, 8, 16, 32, 64),
    samples=4,
    betas=(0.3, 0.03),
    dpo_epochs=1,
    looks=(3, 6, 12),
    coefficients=(0.15, 0.0),
    ensemble_coefficients=(0.0,),
    responses=64,
    targets=(0.25, 0.5),
)


def to_json(plan: Plan) -> str:
    return json.dumps(dataclasses.asdict(plan), indent=1) + '\n'


def from_json(text: str) -> Plan:
    """The plan that `to_json` wrote."""
    lists = json.loads(text)
    return Plan(**{name: tuple(value) if isinstance(value, list) else value for name, value in lists.items()})
