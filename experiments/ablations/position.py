"""How should a model learn where a token stands?

Rotary embeddings turn queries and keys by their position (Su et al. 2021), ALiBi takes a slope times the distance off
the scores (Press et al. 2022); the older two add a vector per position to the embedding, learned or of sines. `none`
tells how much a causal mask gives away by itself (Haviv et al. 2022).
"""

from experiments.ablations.base import BASE
from llm.analysis.ablation import Ablation

ABLATION = Ablation(
    question='How should the order of tokens enter the model?',
    base=BASE,
    base_label='rope',
    arms={
        'alibi': {'model.position': 'alibi'},
        'learned': {'model.position': 'learned'},
        'sinusoidal': {'model.position': 'sinusoidal'},
        'none': {'model.position': 'none'},
    },
    notes='Rows of 64 tokens, and evaluation on rows as long: nothing here is about contexts longer than in training.',
)
