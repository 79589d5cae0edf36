"""The comparison of objectives: fair in parameters and text, right about a model that knows, and whole end to end."""

import numpy as np
import pytest

from experiments.objectives import measure, plan
from llm import tokenizer as tokenizer_lib
from llm.analysis.memory import parameter_count
from llm.config import TokenizerConfig

TOKENIZER = tokenizer_lib.train(TokenizerConfig(kind='byte'), 272, [])


def test_all_arms_have_the_same_text_and_as_many_parameters():
    arms = plan.arms(plan.Plan())
    assert set(arms) == set(plan.ARMS)
    counts = [parameter_count(config.model) for config in arms.values()]
    assert max(counts) / min(counts) < 1.01
    assert len({(config.data, config.training, config.optimizer, config.schedule) for config in arms.values()}) == 1
    assert [config.reading for config in arms.values()] == [
        *('causal', 'bidirectional', 'prefix', 'prefix', 'encoder_decoder'),
    ]


def test_gaps_are_within_documents_and_wrong_spans_are_others():
    draw = np.random.default_rng(0)
    tokens = np.concatenate([np.array([1, *draw.integers(16, 272, 90), 2]) for _ in range(5)])
    small = plan.Plan(gaps=20, length=32)
    gaps = measure.draw_gaps(small, tokens, TOKENIZER)
    assert len(gaps) == 20
    text = tokens.tolist()
    for left, (right, *wrong), rest in gaps:
        window = [*left, *right, *rest]
        assert len(window) == 32
        assert any(text[i : i + 32] == window for i in range(len(text)))
        assert not set(window) & {1, 2}
        assert len(wrong) == 7
        assert right not in wrong
    assert gaps == measure.draw_gaps(small, tokens, TOKENIZER)


@pytest.mark.parametrize('arm', plan.ARMS)
def test_each_way_to_ask_scores_the_span_and_hides_it(arm):
    """What is weighted is the span's tokens (and what the module says beside them), and no input shows a later one."""
    config = plan.arms(plan.Plan())[arm]
    left, span, right = [20, 21, 22], [30, 31], [40, 41, 42]
    rows = measure._rows_of(config)(left, span, right, tokenizer=TOKENIZER, left_alone=False)
    scored = [token for row in rows for token in row['targets'][row['loss_weights'] > 0].tolist()]
    expected = {
        'causal': [30, 31, 40, 41, 42],
        'prefix': [30, 31, 40, 41, 42],
        'masked': [30, 31],
        'span, one stack': [30, 31, 2],
        'span, encoder': [30, 31, 2],
    }
    assert scored == expected[arm]
    if arm == 'masked':
        assert [row['inputs'][3:5].tolist() for row in rows] == [[8, 8], [30, 8]]
    if arm.startswith('span'):
        (row,) = rows
        source = row['source'] if 'source' in row else row['inputs'][: row['prefix_lengths']]
        assert source.tolist() == [20, 21, 22, 8, 40, 41, 42]
