"""How should the learning rate end?

All arms warm up alike. A cosine goes down to a tenth, a line to nothing ("straight to zero", Bergsma et al. 2025),
warm-up-stable-decay stays at the peak for four fifths (Hu et al. 2024), the inverse square root and the constant
never come down, and are what the others are measured against where the end of training is not known beforehand.
"""

from experiments.ablations.base import BASE, STEPS
from llm.ablation.plan import Ablation
from llm.config import Constant, Cosine, InverseSquareRoot, Linear, WarmupStableDecay

WARMUP = BASE.schedule.warmup

ABLATION = Ablation(
    question='How should the learning rate come down?',
    base=BASE,
    base_label='cosine to 0.1',
    arms={
        'cosine to 0': {'schedule': Cosine(STEPS, WARMUP, final_fraction=0.0)},
        'linear to 0': {'schedule': Linear(STEPS, WARMUP)},
        'stable, then decay': {'schedule': WarmupStableDecay(STEPS, WARMUP, decay=STEPS // 5)},
        'inverse square root': {'schedule': InverseSquareRoot(WARMUP)},
        'constant': {'schedule': Constant(WARMUP)},
    },
    notes='Schedules spend different areas under the same peak, so the best peak differs (--tune).',
)
