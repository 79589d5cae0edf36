"""Runs whose objective hides a part of the text: through the ordinary loop, resumed exactly, measured as they are."""

import dataclasses

import pytest

from llm.analysis import flops
from llm.analysis.memory import memory_estimate, parameter_count
from llm.config import Masked, ModelConfig, NextToken, PrefixLM, SpanCorruption
from llm.training.evaluate import evaluate_checkpoint
from llm.training.loop import train
from llm.workdir import Workdir


def hiding(tiny, objective, encoder=0, steps=12):
    model = dataclasses.replace(tiny.model, context_length=64, encoder_layers=encoder)
    training = dataclasses.replace(tiny.training, steps=steps)
    return dataclasses.replace(tiny, model=model, objective=objective, training=training)


@pytest.mark.parametrize(
    ('objective', 'encoder'),
    [
        (Masked(), 0),
        pytest.param(PrefixLM(), 0, marks=pytest.mark.slow),
        pytest.param(PrefixLM(), 1, marks=pytest.mark.slow),
        pytest.param(SpanCorruption(), 0, marks=pytest.mark.slow),
        pytest.param(SpanCorruption(), 1, marks=pytest.mark.slow),
    ],
)
def test_a_run_learns_goes_on_where_it_stopped_and_is_measured_the_same_again(tiny, tmp_path, objective, encoder):
    config = hiding(tiny, objective, encoder)
    whole = train(config, tmp_path / 'whole', progress=False)
    train(hiding(tiny, objective, encoder, steps=8), tmp_path / 'parts', progress=False)
    parts = train(config, tmp_path / 'parts', progress=False)
    assert parts['params_sha256'] == whole['params_sha256']
    workdir = Workdir(tmp_path / 'whole')
    losses = [row['loss'] for row in workdir.rows('train')]
    assert losses[-1] < losses[0]
    assert whole['attention_backend'] == 'reference'
    again = evaluate_checkpoint(workdir, batch_size=5)
    for name in ('loss', 'accuracy', 'tokens'):
        assert again[name] == pytest.approx(whole['held_out'][name], rel=1e-5)
    assert ('bits_per_byte' in again) == isinstance(objective, PrefixLM)
    samples = list(workdir.rows('sample'))
    assert bool(samples) == (not isinstance(objective, Masked))
    assert whole['flops'] == pytest.approx(whole['tokens'] * flops.flops_per_text_token(config))


@pytest.mark.slow
def test_all_objectives_count_the_same_text(tiny, tmp_path):
    """Tokens are those of the windows, whatever is hidden of them."""
    short = lambda objective, steps=2: hiding(tiny, objective, steps=steps)
    found = [
        train(short(objective), tmp_path / objective.kind, progress=False)['tokens']
        for objective in (NextToken(), Masked())
    ]
    assert found[0] == found[1]


def test_an_encoder_costs_what_one_counts_by_hand(tiny):
    """Per layer: four 8 x 8 of attention, two 8 x 16; the decoder four 8 x 8 of cross-attention more. Head 10 x 8."""
    model = ModelConfig(
        vocab_size=10, context_length=64, num_layers=2, encoder_layers=3, width=8, num_heads=2, activation='relu',
        feed_forward_width=16,
    )  # fmt: skip
    block, cross, head = 4 * 64 + 2 * 128, 4 * 64, 80
    assert flops.matmul_weights(model) == 5 * block + 2 * cross + head
    norms = 8 * (3 * 2 + 1 + 2 * 3 + 1)
    assert parameter_count(model) == 5 * block + 2 * cross + head + norms
    length, objective = 40, SpanCorruption()
    hidden, blanks = objective.blanks(length)
    read, written = length - hidden + blanks, hidden + blanks + 1
    config = dataclasses.replace(
        tiny, model=model, objective=objective, data=dataclasses.replace(tiny.data, sequence_length=length)
    )
    weights = read * (3 * block + 2 * cross / 2) + written * (2 * block + 2 * cross / 2 + head)
    assert flops.flops_per_text_token(config, '6N') == pytest.approx(6 * weights / length)
    scores = 3 * read**2 + 2 * (read * written + written**2)
    full = 6 * weights + 3 * 4 * 8 * scores
    assert flops.flops_per_text_token(config, '6N+attention_full') == pytest.approx(full / length)
    assert memory_estimate(config).parameters == 4 * parameter_count(model)


def test_a_masked_token_costs_the_whole_square_of_scores(tiny):
    config = hiding(tiny, Masked())
    length = config.data.sequence_length
    whole = flops.training_flops_per_token(config.model, length, '6N+attention_full')
    assert flops.flops_per_text_token(config) == whole
    assert flops.flops_per_text_token(hiding(tiny, NextToken())) < whole
