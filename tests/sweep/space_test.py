"""The algebra of sweeps: what combines to what, and what is refused before anything runs."""

import math

import pytest

from llm.config import AdamW, Config, Muon
from llm.errors import UserError
from llm.sweep import space

A, B, C = space.axis('seed', 1, 2), space.axis('model.dropout', 0.0, 0.5, 0.25), space.axis('model.position', 'alibi')


def names(points):
    return [','.join(point.labels) for point in points]


def test_product_has_every_combination_once_and_the_base_is_its_unit():
    both = space.product(A, B)
    assert len(both) == 6 and len({point.values for point in both}) == 6
    assert space.product(space.BASE, A) == space.product(A, space.BASE) == A == space.product(A)
    assert space.product(space.product(A, B), C) == space.product(A, space.product(B, C))
    assert names(space.product(A, C)) == ['seed=1,position=alibi', 'seed=2,position=alibi']


def test_chain_and_product_distribute():
    assert space.product(space.chain(A, space.BASE), C) == space.chain(space.product(A, C), C)


def test_zip_goes_along_both_and_refuses_unequal_lengths():
    pairs = space.zipped(A, space.axis('data.seed', 8, 9))
    assert [dict(point.values) for point in pairs] == [{'seed': 1, 'data.seed': 8}, {'seed': 2, 'data.seed': 9}]
    with pytest.raises(UserError, match='2, 3 points'):
        space.zipped(A, B)


def test_a_field_is_set_once():
    with pytest.raises(UserError, match='seed is set twice'):
        space.product(A, space.seeds(2))


def test_samples_are_reproducible_nested_and_follow_their_distributions():
    spread = {'optimizer.learning_rate': space.LogUniform(1e-4, 1e-2), 'model.position': space.Among(('rope', 'none'))}
    many = space.sample(2000, spread, seed=3)
    assert space.sample(10, spread, seed=3) == many[:10] != space.sample(10, spread, seed=4)
    rates = [math.log10(dict(point.values)['optimizer.learning_rate']) for point in many]
    assert min(rates) >= -4 and max(rates) < -2
    assert abs(sum(rates) / len(rates) + 3) < 4 * (2 / math.sqrt(12)) / math.sqrt(2000)  # uniform: four deviations
    share = sum(dict(point.values)['model.position'] == 'rope' for point in many) / 2000
    assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(2000)


def test_configs_are_frozen_named_and_differ_where_they_should():
    configs = space.configs(Config(), space.product(C, space.seeds(2)))
    assert list(configs) == ['position=alibi,seed=0', 'position=alibi,seed=1']
    second = configs['position=alibi,seed=1']
    assert (second.name, second.seed, second.data.seed, second.model.position) == (
        *('position=alibi,seed=1', 1, 1, 'alibi'),
    )
    assert hash(second) != hash(configs['position=alibi,seed=0'])


def test_fields_that_only_fit_together_are_set_together():
    wide = space.point('wide', {'model.width': 96, 'model.num_heads': 3})
    assert space.configs(Config(), wide)['wide'].model.num_heads == 3
    with pytest.raises(UserError, match=r'run width=95: model\.width is 95'):
        space.configs(Config(), space.axis('model.width', 95))


def test_a_choice_is_taken_by_kind_or_as_a_whole_and_its_fields_beside_it():
    for value in ('muon', Muon()):
        point = space.product(space.axis('optimizer', value), space.axis('optimizer.momentum', 0.5))
        assert space.configs(Config(), point)['optimizer=muon,momentum=0.5'].optimizer == Muon(momentum=0.5)
    assert space.configs(Config(), space.axis('optimizer', AdamW(b1=0.5)))['optimizer=adamw'].optimizer.b1 == 0.5


@pytest.mark.parametrize(
    ('field', 'value', 'said'),
    [
        ('model.widht', 64, 'no field model.widht; perhaps you meant model.width'),
        ('optimizer.momentum', 0.9, 'no field optimizer.momentum'),  # AdamW has none
        ('model.width', '64', "model.width is '64'; it must be a whole number"),
        ('model.width', 64.5, 'it must be a whole number'),
        ('model.width', True, 'it must be a whole number'),
        ('model.dropout', 'high', 'it must be a number'),
        ('model.tied_embeddings', 1, 'it must be true or false'),
        ('model.position', 'rotary', 'it must be among'),
        ('model.compute_dtype', 'int8', 'it must be among'),
        ('model.windows', 3, 'it must be a list'),
        ('optimizer', 'adam', 'choose one of adamw'),
        ('model', 'big', 'it is a section'),
    ],
)
def test_a_wrong_name_or_type_fails_before_anything_runs(field, value, said):
    with pytest.raises(UserError, match=said):
        space.configs(Config(), space.axis(field, value))


def test_two_runs_of_one_name_and_no_run_are_refused():
    with pytest.raises(UserError, match='two runs named seed=1'):
        space.configs(Config(), space.chain(A, A))
    with pytest.raises(UserError, match='no run'):
        space.configs(Config(), ())


@pytest.mark.parametrize(
    ('text', 'values'),
    [
        ('optimizer.learning-rate=1e-3,3e-3', [1e-3, 3e-3]),
        ('model.position=rope,alibi', ['rope', 'alibi']),
        ('model.windows=[64],[null]', [[64], [None]]),
        ('model.num_kv_heads=None,1', [None, 1]),
        ('model.qk_norm=True,false', [True, False]),
    ],
)
def test_axes_as_typed(text, values):
    points = space.parse_axis(text)
    assert [point.values[0][1] for point in points] == values
    assert len(space.configs(Config(), points)) == 2


def test_an_axis_that_is_none_is_refused():
    for text in ('model.width', 'model.width='):
        with pytest.raises(UserError, match='no axis'):
            space.parse_axis(text)
