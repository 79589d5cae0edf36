"""Which optimizer?

Each at the learning rate and decay that its own paper's defaults come to here; which is what a question about
optimizers mostly measures. Ask with --tune before believing it (Choi et al. 2019, "On Empirical Comparisons of
Optimizers").
"""

from experiments.ablations.base import BASE
from llm.ablation.plan import Ablation
from llm.config import SGD, Adafactor, Lion, Muon

ABLATION = Ablation(
    question='Which optimizer?',
    base=BASE,
    base_label='adamw',
    arms={
        'muon': {'optimizer': Muon(learning_rate=2e-2, adam_learning_rate=1e-2)},
        'lion': {'optimizer': Lion(learning_rate=1e-3)},
        'adafactor': {'optimizer': Adafactor(learning_rate=1e-2)},
        'sgd': {'optimizer': SGD(learning_rate=0.5)},
    },
    notes='Equal tokens are not equal time: see the throughput. States in memory differ, too: see the memory.',
)
