"""What does this laboratory find where there is nothing to find?

`same` is the base under another name: equal to the last bit, or runs are not what their config says. `other seeds` is
the base with other seeds: its difference is what seeds do, without any pairing. Both have to be called not
distinguishable (the second in 19 of 20 such experiments, by the meaning of 5%).
"""

from experiments.ablations.base import BASE
from llm.ablation.plan import Ablation

ABLATION = Ablation(
    question='Is anything found where there is nothing to find?',
    base=BASE,
    arms={'same': {}, 'other seeds': {}},
    other_seeds=('other seeds',),
)
