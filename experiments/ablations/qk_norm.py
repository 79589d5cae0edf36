"""Do normalised queries and keys help?

They bound the attention's scores, so that a high learning rate does not blow them up (Henry et al. 2020; Dehghani et
al. 2023). So the question is asked twice: at the base's learning rate and at four times that.
"""

from experiments.ablations.base import BASE
from llm.ablation.plan import Ablation

HIGH = 4 * BASE.optimizer.learning_rate

ABLATION = Ablation(
    question='Does it help to normalise queries and keys?',
    base=BASE,
    base_label='without',
    arms={
        'with': {'model.qk_norm': True},
        'without, 4 x rate': {'optimizer.learning_rate': HIGH},
        'with, 4 x rate': {'model.qk_norm': True, 'optimizer.learning_rate': HIGH},
    },
    notes='At a learning rate tuned per arm (--tune) the last two arms ask again what the first two did.',
)
