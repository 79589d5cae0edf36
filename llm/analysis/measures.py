"""What is measured on held-out data, by kind of objective: what people look at first, and how it is written."""

from typing import Any, NamedTuple


class Measure(NamedTuple):
    """A number of an evaluation: its key, its name for people, its format and its unit."""

    key: str
    name: str
    form: str
    unit: str


LOSS = Measure('loss', 'held-out loss', '{:.4f}', 'nats per token')
TEXT = (
    LOSS,
    Measure('perplexity', 'perplexity', '{:.2f}', 'held-out, per token'),
    Measure('bits_per_byte', 'bits per byte', '{:.4f}', ''),
)
POLICY = (
    Measure('reward', 'held-out reward', '{:.3f}', 'mean per response'),
    Measure('eos_rate', 'responses that end', '{:.1%}', 'within the longest length'),
    Measure('completions/mean_length', 'response length', '{:.1f}', 'tokens'),
)
HIDDEN = (
    LOSS._replace(unit='nats per hidden token'),
    Measure('accuracy', 'guessed', '{:.1%}', 'of the hidden tokens, at the first guess'),
)
MEASURES = {
    'next_token': TEXT,
    'distillation': TEXT,
    'sft': (LOSS._replace(unit='nats per token of the answers'), *TEXT[1:]),
    'reward_model': (
        Measure('accuracy', 'held-out accuracy', '{:.3f}', 'pairs in which the better response has the higher reward'),
        Measure('calibration_error', 'calibration error', '{:.3f}', 'mean |predicted - true| probability of winning'),
        LOSS._replace(unit='nats per pair'),
    ),
    'dpo': (
        Measure('rewards/accuracies', 'held-out accuracy', '{:.3f}', 'pairs in which the chosen response gained more'),
        Measure('rewards/margins', 'reward margin', '{:.3f}', 'chosen - rejected'),
        LOSS._replace(unit='nats per pair'),
    ),
    'ppo': POLICY,
    'grpo': POLICY,
    'rloo': POLICY,
    'masked': HIDDEN,
    'prefix_lm': (
        LOSS._replace(unit='nats per token behind a prefix'),
        HIDDEN[1]._replace(name='next tokens guessed', unit='behind a prefix, at the first guess'),
        TEXT[2]._replace(unit='with prefixes of one token'),
    ),
    'span_corruption': (LOSS._replace(unit='nats per token of blanks'), HIDDEN[1]._replace(unit='of blanks, in order')),
}

# What is plotted beside the loss: title, unit of the y axis, and the keys of its curves.
PLOTS = {
    'reward_model': (
        ('Accuracy', 'fraction of pairs', ('accuracy',)),
        ('Margin', 'reward of chosen - of rejected', ('margin',)),
    ),
    'dpo': (
        ('Accuracy', 'fraction of pairs', ('rewards/accuracies',)),
        ('Margin', 'reward of chosen - of rejected', ('rewards/margins',)),
        ('Log-probability', 'nats per response', ('logps/chosen', 'logps/rejected')),
    ),
}
PLOTS['distillation'] = (
    ('Distance to the teacher', 'nats per token, at its temperature', ('teacher/divergence',)),
    ('Not told apart', 'probability of tokens beyond the top k', ('teacher/rest',)),
)
PLOTS |= dict.fromkeys(
    ('masked', 'prefix_lm', 'span_corruption'), (('Guessed', 'fraction of hidden tokens', ('accuracy',)),)
)
PLOTS |= dict.fromkeys(
    ('ppo', 'grpo', 'rloo'),
    (
        ('Reward', 'mean per response', ('reward',)),
        ('KL to the start', 'nats per response', ('objective/kl',)),
        ('Entropy', 'nats per token', ('entropy',)),
        ('Response length', 'tokens', ('completions/mean_length', 'completions/max_length')),
        ('Responses that end', 'fraction', ('eos_rate',)),
        ('Clipped', 'fraction of tokens', ('clip_ratio',)),
        ('Where the time goes', 'seconds a step', ('seconds/rollout', 'seconds/score', 'seconds/update')),
        ('Sampler against trainer', 'largest gap of a log-probability, nats', ('sampler_logp_gap',)),
    ),
)


def sentence(objective: str, held_out: dict[str, Any]) -> str:
    """The measures of an evaluation in one line."""
    found = [m for m in MEASURES[objective] if held_out.get(m.key) is not None]
    return ', '.join(f'{m.name} {m.form.format(held_out[m.key])}' for m in found)
