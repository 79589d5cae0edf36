"""Looking into a model: what it computes at every named site, and what happens when that is changed.

    activations   run a model, or one layer of it, and get what it computes by the names of `llm.model.taps`
    edits         ablate, scale, patch: edits of those sites
    logit_lens    what the head would say after each layer
    attribution   a logit as a sum over embedding, heads, feed-forward networks and neurons
    heads         how much a head looks at the previous token, at copies of its own, at what came after them

All are pure functions of the model's parameters (the tree that training stores, adapters merged in) and its config.
"""

from llm.analysis.lens.activations import Run, run, run_layer
from llm.analysis.lens.attribution import (
    Attribution,
    NeuronAttribution,
    attribution_sites,
    direct_logit_attribution,
    neuron_attribution,
)
from llm.analysis.lens.edits import ablate, combine, mean_ablate, patch, scale
from llm.analysis.lens.heads import (
    duplicate_token_score,
    head_scores,
    induction_score,
    previous_token_score,
    repeated_tokens,
    scores_on_repeats,
)
from llm.analysis.lens.logit_lens import LogitLens, logit_lens, residuals, unembed
from llm.model.taps import SITES, Edit, Site, sites_of

__all__ = [
    'SITES',
    'Attribution',
    'Edit',
    'LogitLens',
    'NeuronAttribution',
    'Run',
    'Site',
    'ablate',
    'attribution_sites',
    'combine',
    'direct_logit_attribution',
    'duplicate_token_score',
    'head_scores',
    'induction_score',
    'logit_lens',
    'mean_ablate',
    'neuron_attribution',
    'patch',
    'previous_token_score',
    'repeated_tokens',
    'residuals',
    'run',
    'run_layer',
    'scale',
    'scores_on_repeats',
    'sites_of',
    'unembed',
]
