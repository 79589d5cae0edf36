"""Configs survive JSON, refuse what is wrong by name, and have two hashes that mean what they say."""

import dataclasses
import itertools
import json
import typing

import pytest

from llm import config_json
from llm.config import (
    PPO,
    SFT,
    SGD,
    Adafactor,
    AdamW,
    CheckpointConfig,
    Config,
    Constant,
    Cosine,
    DataConfig,
    DivergenceConfig,
    EvaluationConfig,
    InitFromConfig,
    InverseSquareRoot,
    Linear,
    Lion,
    LogConfig,
    Masked,
    ModelConfig,
    Muon,
    NextToken,
    ParallelConfig,
    PrefixLM,
    RewardConfig,
    SpanCorruption,
    TokenizerConfig,
    TrainingConfig,
    WarmupStableDecay,
)
from llm.config_json import config_hash, difference, from_dict, from_json, identity_hash, to_dict, to_json
from llm.errors import UserError

OPTIMIZERS = (AdamW, Adafactor, Lion, Muon, SGD)
SCHEDULES = (Cosine, Linear, WarmupStableDecay, Constant, InverseSquareRoot)
SECTIONS = {f.name: f.type for f in dataclasses.fields(Config) if dataclasses.is_dataclass(f.type)}


def with_field(config: Config, name: str, value) -> Config:
    """Replaces one field by its dotted name."""
    section, _, field = name.rpartition('.')
    if not section:
        return dataclasses.replace(config, **{field: value})
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **{field: value})})


def other_value(value):
    """Another value of the same type that every field accepts, unless it is a choice."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 2
    if isinstance(value, float):
        return value / 2 if value else 0.25
    return {None: 2, (None,): (2, None), (): ('query',), 'run': 'other', 'text': 'body', 'def': 'class', '': 'w'}.get(
        value
    )


# ------------------------------------------------------------------------------------------------------------- JSON


def test_the_choices_here_are_all_there_are():
    types = {f.name: f.type for f in dataclasses.fields(Config)}
    assert set(typing.get_args(types['optimizer'])) == set(OPTIMIZERS)
    assert set(typing.get_args(types['schedule'])) == set(SCHEDULES)
    kinds = [choice.kind for choice in (*OPTIMIZERS, *SCHEDULES)]
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_every_optimizer_survives_json(optimizer):
    choice = optimizer(learning_rate=0.125, weight_decay=0.5)
    config = Config(optimizer=choice)
    assert from_json(to_json(config)) == config
    assert json.loads(to_json(config))['optimizer']['kind'] == optimizer.kind


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_every_schedule_survives_json(schedule):
    config = Config(schedule=schedule(warmup=7))
    assert from_json(to_json(config)) == config
    assert json.loads(to_json(config))['schedule']['kind'] == schedule.kind


def test_every_kind_of_value_survives_json():
    config = Config(
        name='µ "quoted"\n',
        model=ModelConfig(windows=(128, None), biases=('query', 'norm'), num_kv_heads=2, logit_softcap=30.0),
        data=DataConfig(corpora=('text:a', 'jsonl:b'), weights=(0.25, 0.75)),
        init_from=InitFromConfig(workdir='elsewhere', step=5, continue_step=True),
        training=TrainingConfig(clip_norm=None, ema_decay=0.999),
        checkpoint=CheckpointConfig(keep_every=1000),
    )
    back = from_json(to_json(config))
    assert back == config
    assert hash(back) == hash(config)  # lists became tuples again: a config is a static argument of `jit`
    assert to_json(back) == to_json(config)


def test_a_whole_number_is_read_as_the_float_it_was():
    data = to_dict(Config())
    data['optimizer']['learning_rate'] = 1
    data['data']['weights'] = [2]
    data['training']['clip_norm'] = 3
    config = from_dict(data)
    for value in (config.optimizer.learning_rate, config.data.weights[0], config.training.clip_norm):
        assert type(value) is float


def test_what_an_older_version_did_not_know_keeps_its_default():
    data = json.loads(to_json(Config(seed=3)))
    del data['model']['qk_norm'], data['divergence']
    assert from_json(json.dumps(data)) == Config(seed=3)


@pytest.mark.parametrize('version', [config_json.SCHEMA_VERSION + 1, None])
def test_a_config_of_a_newer_version_is_refused(version):
    data = json.loads(to_json(Config())) | {'schema_version': version}
    with pytest.raises(UserError, match=f'schema version {version}.*reads up to {config_json.SCHEMA_VERSION}'):
        from_json(json.dumps(data))


@pytest.mark.parametrize(
    ('path', 'meant'),
    [
        ('model.num_layer', 'model.num_layers'),
        ('modle', 'model'),
        ('optimizer.learning_rat', 'optimizer.learning_rate'),
        ('training.stpes', 'training.steps'),
    ],
)
def test_an_unknown_field_is_named_with_the_nearest_there_is(path, meant):
    data = to_dict(Config())
    section, _, name = path.rpartition('.')
    (data[section] if section else data)[name] = 1
    with pytest.raises(UserError) as error:
        from_dict(data)
    assert str(error.value) == f'the config has no field {path}; perhaps you meant {meant}'


def test_an_unknown_field_like_no_other_is_named():
    with pytest.raises(UserError, match=r'^the config has no field model\.qqqqqq$'):
        from_dict({'model': {'qqqqqq': 1}})


def test_an_unknown_choice_is_named_with_those_there_are():
    with pytest.raises(UserError, match=r"optimizer\.kind is 'adam'; choose one of adamw, adafactor, lion, muon, sgd"):
        from_dict({'optimizer': {'kind': 'adam'}})


def test_a_stored_value_that_is_refused_is_one_line():
    with pytest.raises(UserError, match=r'^model\.width is 0; it must be at least 1$'):
        from_dict({'model': {'width': 0}})


@pytest.mark.parametrize(
    'data',
    [{'model': 5}, {'data': {'corpora': 5}}, {'optimizer': 'adamw'}, {'model': {'width': 'wide'}}, {'seed': None}],
    ids=str,
)
def test_a_stored_value_of_the_wrong_shape_is_the_users_mistake(data):
    with pytest.raises(UserError) as error:
        from_dict(data)
    assert '\n' not in str(error.value)


def test_reading_does_not_change_what_is_read():
    data = to_dict(Config())
    before = json.dumps(data)
    from_dict(data)
    assert json.dumps(data) == before


# ------------------------------------------------------------------------------------------------------- validation

MUP = ModelConfig(parametrization='mup', base_width=64)
MUP_WITHOUT_SIZE = (  # weights that start at 0 have no size for Adafactor's steps to be relative to
    {'model': dataclasses.replace(MUP, init_output='zero'), 'optimizer': Adafactor()},
    {'model': MUP, 'optimizer': Adafactor(), 'objective': PPO(reward=RewardConfig(models=('a',)))},
)
WRONG = [
    ('model.vocab_size', ModelConfig, {'vocab_size': 0}),
    ('model.context_length', ModelConfig, {'context_length': 0}),
    ('model.num_layers', ModelConfig, {'num_layers': 0}),
    ('model.width', ModelConfig, {'width': 0}),
    ('model.width', ModelConfig, {'width': 30}),
    ('model.num_heads', ModelConfig, {'num_heads': 0}),
    ('model.num_kv_heads', ModelConfig, {'num_kv_heads': 0}),
    ('model.num_kv_heads', ModelConfig, {'num_kv_heads': 3}),
    ('model.num_kv_heads', ModelConfig, {'num_kv_heads': 8}),
    ('model.head_dim', ModelConfig, {'head_dim': 0}),
    ('model.head_dim', ModelConfig, {'head_dim': 5}),
    ('model.feed_forward_width', ModelConfig, {'feed_forward_width': -1}),
    ('model.rope_base', ModelConfig, {'rope_base': 1.0}),
    ('model.attention_scale', ModelConfig, {'attention_scale': 0.0}),
    ('model.attention_softcap', ModelConfig, {'attention_softcap': -1.0}),
    ('model.logit_softcap', ModelConfig, {'logit_softcap': 0.0}),
    ('model.windows', ModelConfig, {'windows': ()}),
    ('model.windows', ModelConfig, {'windows': (None, 0)}),
    ('model.norm_epsilon', ModelConfig, {'norm_epsilon': 0.0}),
    ('model.biases', ModelConfig, {'biases': ('query', 'query')}),
    ('model.biases', ModelConfig, {'biases': ('lm_head',)}),
    ('model.biases', ModelConfig, {'biases': ('feed_forward',), 'feed_forward_width': 0}),
    ('model.dropout', ModelConfig, {'dropout': 1.0}),
    ('model.dropout', ModelConfig, {'dropout': -0.1}),
    ('model.init_std', ModelConfig, {'init_std': 0.0}),
    ('model.base_width', ModelConfig, {'parametrization': 'mup'}),
    ('model.base_width', ModelConfig, {'parametrization': 'mup', 'base_width': 0}),
    ('model.base_width', ModelConfig, {'base_width': 64}),
    ('tokenizer.training_bytes', TokenizerConfig, {'training_bytes': 0}),
    ('data.corpora', DataConfig, {'corpora': ()}),
    ('data.weights', DataConfig, {'weights': (1.0, 1.0)}),
    ('data.weights', DataConfig, {'weights': (0.0,)}),
    ('data.sequence_length', DataConfig, {'sequence_length': 0}),
    ('data.seed', DataConfig, {'seed': -1}),
    ('objective.z_loss', NextToken, {'z_loss': -1e-4}),
    ('objective.label_smoothing', NextToken, {'label_smoothing': 1.0}),
    ('objective.label_smoothing', NextToken, {'label_smoothing': -0.1}),
    ('objective.vocabulary_chunk', NextToken, {'vocabulary_chunk': -1}),
    *(('optimizer.learning_rate', optimizer, {'learning_rate': 0.0}) for optimizer in OPTIMIZERS),
    *(('optimizer.weight_decay', optimizer, {'weight_decay': -0.1}) for optimizer in OPTIMIZERS),
    *((f'optimizer.{name}', cls, {name: 1.0}) for cls in (AdamW, Lion, Muon) for name in ('b1', 'b2')),
    *((f'optimizer.{name}', cls, {name: -0.1}) for cls in (AdamW, Lion, Muon) for name in ('b1', 'b2')),
    *(('optimizer.momentum', cls, {'momentum': value}) for cls in (SGD, Muon) for value in (1.0, -0.1)),
    ('optimizer.epsilon', AdamW, {'epsilon': 0.0}),
    ('optimizer.decay_rate', Adafactor, {'decay_rate': 1.0}),
    ('optimizer.adam_learning_rate', Muon, {'adam_learning_rate': 0.0}),
    *(('schedule.warmup', schedule, {'warmup': -1}) for schedule in SCHEDULES),
    ('schedule.warmup', InverseSquareRoot, {'warmup': 0}),
    *(('schedule.horizon', cls, {'horizon': 0, 'warmup': 0}) for cls in (Cosine, Linear)),
    *(('schedule.horizon', cls, {'horizon': 10, 'warmup': 11}) for cls in (Cosine, Linear, WarmupStableDecay)),
    ('schedule.horizon', WarmupStableDecay, {'horizon': 10, 'warmup': 5, 'decay': 6}),
    ('schedule.decay', WarmupStableDecay, {'decay': -1}),
    *(('schedule.final_fraction', cls, {'final_fraction': 1.1}) for cls in (Cosine, Linear, WarmupStableDecay)),
    *(('schedule.final_fraction', cls, {'final_fraction': -0.1}) for cls in (Cosine, Linear, WarmupStableDecay)),
    ('init_from.step', InitFromConfig, {'step': -1}),
    ('training.steps', TrainingConfig, {'steps': 0}),
    ('training.batch_size', TrainingConfig, {'batch_size': 0}),
    ('training.accumulation', TrainingConfig, {'accumulation': 0}),
    ('training.accumulation', TrainingConfig, {'accumulation': 3}),
    ('training.clip_norm', TrainingConfig, {'clip_norm': 0.0}),
    ('training.ema_decay', TrainingConfig, {'ema_decay': 0.0}),
    ('training.ema_decay', TrainingConfig, {'ema_decay': 1.0}),
    ('divergence.window', DivergenceConfig, {'window': 4}),
    ('divergence.z_score', DivergenceConfig, {'z_score': 0.0}),
    ('divergence.skip', DivergenceConfig, {'skip': 0}),
    ('divergence.max_rollbacks', DivergenceConfig, {'max_rollbacks': -1}),
    ('checkpoint.every', CheckpointConfig, {'every': 0}),
    ('checkpoint.keep_last', CheckpointConfig, {'keep_last': 0}),
    ('checkpoint.keep_every', CheckpointConfig, {'keep_every': 0}),
    *((f'evaluation.{name}', EvaluationConfig, {name: 0}) for name in ('every', 'max_windows', 'batch_size')),
    ('evaluation.sample_tokens', EvaluationConfig, {'sample_tokens': -1}),
    ('log.every', LogConfig, {'every': 0}),
    ('seed', Config, {'seed': -1}),
    *(('model.parametrization', Config, values) for values in MUP_WITHOUT_SIZE),
    ('data.sequence_length', Config, {'data': DataConfig(sequence_length=257)}),
]


YARN = {
    'rope_scaling': 'yarn',
    'rope_factor': 2.0,
    'rope_original_context': 8,
    'rope_slow_turns': 1.0,
    'rope_fast_turns': 4.0,
}
WRONG += [
    ('model.rope_scaling', ModelConfig, YARN | {'position': 'alibi'}),
    ('model.rope_factor', ModelConfig, {'rope_factor': 2.0}),
    ('model.rope_factor', ModelConfig, {'rope_scaling': 'linear'}),
    ('model.rope_factor', ModelConfig, YARN | {'rope_factor': float('nan')}),
    (
        'model.rope_original_context',
        ModelConfig,
        {'rope_scaling': 'linear', 'rope_factor': 2.0} | {'rope_original_context': 8},
    ),
    ('model.rope_original_context', ModelConfig, YARN | {'rope_original_context': 0}),
    ('model.rope_slow_turns', ModelConfig, YARN | {'rope_slow_turns': None}),
    ('model.rope_fast_turns', ModelConfig, YARN | {'rope_fast_turns': 1.0}),
    ('model.rope_whole_pairs', ModelConfig, {'rope_whole_pairs': False}),
    ('model.rope_amplitude', ModelConfig, {'rope_amplitude': 1.0}),
    ('model.rope_amplitude', ModelConfig, YARN | {'rope_amplitude': 0.0}),
    ('model.local_rope_base', ModelConfig, {'local_rope_base': 10.0}),
    ('model.local_rope_base', ModelConfig, {'local_rope_base': 1.0, 'windows': (3,)}),
]
IMAGES = {'image_size': 8, 'patch_size': 2}
WRONG += [
    ('model.image_size', ModelConfig, {'image_size': 0, 'patch_size': 1}),
    ('model.patch_size', ModelConfig, {'image_size': 8}),
    ('model.patch_size', ModelConfig, {'patch_size': 2}),
    *(('model.patch_size', ModelConfig, IMAGES | {'patch_size': size}) for size in (0, 3, 16)),
    ('model.patch_size', ModelConfig, IMAGES | {'context_length': 15}),
    ('model.image_channels', ModelConfig, {'image_channels': 3}),
    ('model.image_channels', ModelConfig, IMAGES | {'image_channels': 0}),
    ('model.image_positions', ModelConfig, {'image_positions': 'learned'}),
    ('model.image_positions', ModelConfig, IMAGES | {'position': 'alibi'}),
    ('model.image_positions', ModelConfig, IMAGES | {'image_positions': 'rotery'}),
    ('model.image_attention', ModelConfig, {'image_attention': 'causal'}),
    ('parallel.context', Config, {'model': ModelConfig(**IMAGES), 'parallel': ParallelConfig(context=2)}),
]


ENCODER = ModelConfig(encoder_layers=1)
WRONG += [
    ('model.encoder_layers', ModelConfig, {'encoder_layers': -1}),
    ('model.image_size', ModelConfig, IMAGES | {'encoder_layers': 1}),
    *(('model.encoder_layers', Config, {'model': ENCODER, 'objective': o}) for o in (NextToken(), SFT(), Masked())),
    ('model.context_length', Config, {'objective': SpanCorruption()}),  # which writes behind the window
    ('parallel.context', Config, {'objective': Masked(), 'parallel': ParallelConfig(context=2)}),
    *(('objective.rate', kind, {'rate': rate}) for kind in (Masked, SpanCorruption) for rate in (0.0, 1.0)),
    ('objective.masked', Masked, {'masked': 0.95}),
    ('objective.random', Masked, {'random': -0.1}),
    ('objective.span_length', SpanCorruption, {'span_length': 0.5}),
]


@pytest.mark.parametrize(('name', 'cls', 'values'), WRONG, ids=lambda value: getattr(value, '__name__', str(value)))
def test_a_wrong_value_is_refused_by_name_with_the_fix(name, cls, values):
    with pytest.raises(ValueError, match=rf'^{name} is .*; it must be .+') as error:
        cls(**values)
    assert '\n' not in str(error.value)


NOT_A_NUMBER = [
    *((f'optimizer.{f.name}', cls, f.name) for cls in OPTIMIZERS for f in dataclasses.fields(cls)),
    *(('schedule.final_fraction', cls, 'final_fraction') for cls in (Cosine, Linear, WarmupStableDecay)),
    *((f'model.{name}', ModelConfig, name) for name in ('rope_base', 'dropout', 'init_std', 'norm_epsilon')),
    ('objective.z_loss', NextToken, 'z_loss'),
    ('training.clip_norm', TrainingConfig, 'clip_norm'),
    ('divergence.z_score', DivergenceConfig, 'z_score'),
]


@pytest.mark.parametrize(('name', 'cls', 'field'), NOT_A_NUMBER, ids=lambda value: getattr(value, '__name__', value))
def test_a_number_that_is_none_is_refused(name, cls, field):
    with pytest.raises(ValueError, match=rf'^{name} is nan'):
        cls(**{field: float('nan')})


CHOICES = [
    (f'{section}.{f.name}', cls, f.name, f.type)
    for section, cls in SECTIONS.items()
    for f in dataclasses.fields(cls)
    if 'Literal' in str(f.type)
]


@pytest.mark.parametrize(
    ('name', 'cls', 'field', 'annotation'), CHOICES, ids=lambda value: getattr(value, '__name__', None)
)
def test_a_word_that_is_no_choice_is_refused(name, cls, field, annotation):
    """A misspelt choice in a config file must not train another model without a word."""
    wrong = ('misspelt',) if typing.get_origin(annotation) is tuple else 'misspelt'
    with pytest.raises(ValueError, match=rf'^{name} is .*misspelt'):
        cls(**{field: wrong})


def test_values_at_the_edge_are_accepted():
    ModelConfig(width=30, num_heads=4, head_dim=8)
    ModelConfig(position='learned', width=15, num_heads=3)
    ModelConfig(tied_embeddings=False, biases=('lm_head',))
    WarmupStableDecay(horizon=10, warmup=5, decay=5)
    Cosine(horizon=1, warmup=1, final_fraction=1.0)
    Config(data=DataConfig(sequence_length=256))


# ----------------------------------------------------------------------------------------------------------- hashes


def test_the_hash_of_the_default_config_is_stable():
    assert (config_hash(Config()), identity_hash(Config())) == ('272bbb683e42', '03bda1693c2f'), (
        'The hashes of the default config changed. That is right only if a field was added, removed or renamed or a '
        'default was changed on purpose; then write the new hashes here, and say in CHANGELOG.md that runs of before '
        'count as other runs. It is wrong after anything else: stored hashes would no longer match their configs.'
    )


def test_hashes_survive_json():
    config = Config(model=ModelConfig(windows=(5, None)), optimizer=Muon())
    again = from_json(to_json(config))
    assert config_hash(again) == config_hash(config)
    assert identity_hash(again) == identity_hash(config)


def test_a_choice_that_was_the_only_one_needs_no_kind():
    """config.json of before there was more than one objective."""
    data = json.loads(to_json(Config(objective=NextToken(z_loss=0.5))))
    del data['objective']['kind']
    assert from_json(json.dumps(data)) == Config(objective=NextToken(z_loss=0.5))


NOT_IDENTITY = {
    'name',
    'training.steps',
    *(f'checkpoint.{f.name}' for f in dataclasses.fields(CheckpointConfig)),
    *(f'evaluation.{f.name}' for f in dataclasses.fields(EvaluationConfig)),
    *(f'log.{f.name}' for f in dataclasses.fields(LogConfig)),
    *(f'parallel.{f.name}' for f in dataclasses.fields(ParallelConfig)),
}
PARAMETRIZATION = ['model.parametrization', 'model.base_width']
ROPE_SCALING = [
    'model.rope_scaling',
    *(f'model.rope_{name}' for name in ('factor', 'original_context', 'slow_turns', 'fast_turns')),
    *('model.rope_whole_pairs', 'model.rope_amplitude', 'model.local_rope_base'),
]
READS_IMAGES = [f'model.{name}' for name in ('image_size', 'patch_size')]
READS_IMAGES += [f'model.image_{name}' for name in ('channels', 'positions', 'attention')]
PLAIN = [
    name
    for name in config_json.flatten(Config())
    if name not in (*PARAMETRIZATION, *ROPE_SCALING, *READS_IMAGES, 'model.encoder_layers')
    and (not name.endswith('.kind') or name == 'tokenizer.kind')
]


@pytest.mark.parametrize('name', PLAIN)
def test_the_whole_hash_sees_every_field_and_the_identity_all_but_length_logging_and_placement(name):
    config = Config()
    section, _, field = name.rpartition('.')
    value = getattr(getattr(config, section), field) if section else getattr(config, field)
    annotation = next(
        f.type for f in dataclasses.fields(getattr(config, section) if section else config) if f.name == field
    )
    options = typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()
    changed = next((option for option in options if option != value), None) or other_value(value)
    if name == 'model.compute_dtype':
        changed = 'bfloat16'
    if name == 'data.corpora':
        changed = ('text:x',)
    if name == 'data.weights':
        changed = (1.0,)
    if name in ('training.ema_decay', 'training.clip_norm'):
        changed = 0.5
    if name in ('model.num_heads', 'model.num_layers'):
        changed = 2
    if name == 'model.width':
        changed = 64
    if name == 'data.sequence_length':
        changed = 128
    if name == 'training.accumulation':
        changed = 4
    if name == 'tokenizer.kind':
        changed = 'byte'
    if name == 'lora.targets':
        changed = ('query',)
    other = with_field(config, name, changed)
    assert config_hash(other) != config_hash(config)
    assert (identity_hash(other) == identity_hash(config)) == (name in NOT_IDENTITY)
    assert list(difference(config, other)) == [name]


def test_the_hashes_see_the_parametrisation():
    """It and its base width come and go together."""
    configs = [Config(), Config(model=MUP), Config(model=dataclasses.replace(MUP, base_width=32))]
    for hash_of in (config_hash, identity_hash):
        assert len(set(map(hash_of, configs))) == 3
    assert list(difference(*configs[:2])) == PARAMETRIZATION
    assert list(difference(*configs[1:])) == ['model.base_width']


def test_the_hashes_see_rope_scaling():
    """Its fields come and go together; that they came later than the hashes leaves those of before as they were."""
    yarn = YARN | {'rope_whole_pairs': False, 'rope_amplitude': 2.0}
    llama3 = YARN | {'rope_scaling': 'llama3'}
    models = [
        {},
        {'rope_scaling': 'linear', 'rope_factor': 2.0},
        {'rope_scaling': 'linear', 'rope_factor': 3.0},
        *(kind | change for kind in (YARN, yarn, llama3) for change in ({}, {'rope_original_context': 7})),
        *(YARN | {name: 2.5} for name in ('rope_slow_turns', 'rope_fast_turns', 'rope_amplitude')),
        {'windows': (5,)},
        {'windows': (5,), 'local_rope_base': 3.0},
    ]
    configs = [Config(model=ModelConfig(**model)) for model in models]
    for hash_of in (config_hash, identity_hash):
        assert len(set(map(hash_of, configs))) == len(configs)
    assert set(difference(configs[0], Config(model=ModelConfig(**yarn)))) == set(ROPE_SCALING[:-1])
    assert from_json(to_json(configs[-1])) == configs[-1]


def test_the_hashes_see_what_images_are():
    """The same of its fields."""
    changes = [{'patch_size': 4}, {'image_size': 4}, {'image_channels': 3}]
    changes += [{'image_positions': 'learned'}, {'image_attention': 'causal'}]
    configs = [Config(), *(Config(model=ModelConfig(**IMAGES | change)) for change in ({}, *changes))]
    for hash_of in (config_hash, identity_hash):
        assert len(set(map(hash_of, configs))) == len(configs)
    assert set().union(*(difference(configs[0], config) for config in configs)) == set(READS_IMAGES)
    assert all(from_json(to_json(config)) == config for config in configs)


def test_the_hashes_see_an_encoder():
    """Which only objectives that give it a source can have."""
    configs = [Config(objective=PrefixLM(), model=ModelConfig(encoder_layers=layers)) for layers in (0, 1, 2)]
    for hash_of in (config_hash, identity_hash):
        assert len(set(map(hash_of, configs))) == len(configs)


@pytest.mark.parametrize(
    ('objective', 'encoder', 'reading'),
    [
        (NextToken(), 0, 'causal'),
        (SFT(), 0, 'causal'),
        (Masked(), 0, 'bidirectional'),
        (PrefixLM(), 0, 'prefix'),
        (PrefixLM(), 1, 'encoder_decoder'),
        (SpanCorruption(), 0, 'prefix'),
        (SpanCorruption(), 2, 'encoder_decoder'),
    ],
)
def test_the_objective_and_the_encoder_say_how_a_run_reads(objective, encoder, reading):
    model = ModelConfig(encoder_layers=encoder, context_length=512)
    assert Config(objective=objective, model=model).reading == reading


def test_the_kind_of_a_choice_is_part_of_both_hashes():
    for hash_of in (config_hash, identity_hash):
        hashes = {hash_of(Config(optimizer=optimizer(learning_rate=0.1, weight_decay=0.1))) for optimizer in OPTIMIZERS}
        hashes |= {hash_of(Config(schedule=schedule(warmup=1))) for schedule in SCHEDULES}
        assert len(hashes) == len(OPTIMIZERS) + len(SCHEDULES)


def test_roles_are_those_of_length_logging_and_placement():
    roles = config_json.roles()
    assert set(roles) == NOT_IDENTITY
    assert {name for name, role in roles.items() if role == 'run_length'} == {'training.steps'}


def test_the_difference_names_each_field_with_both_values():
    a = Config(seed=1, training=TrainingConfig(steps=5), log=LogConfig(every=2))
    b = Config(seed=2, training=TrainingConfig(steps=6), log=LogConfig(every=3))
    assert difference(a, b) == {'seed': (1, 2), 'training.steps': (5, 6), 'log.every': (2, 3)}
    assert difference(a, b, ignore=('logging',)) == {'seed': (1, 2), 'training.steps': (5, 6)}
    assert difference(a, b, ignore=('run_length', 'logging')) == {'seed': (1, 2)}
    assert difference(a, a) == {}


def test_the_difference_between_two_choices_names_the_kind_and_what_only_one_has():
    changed = difference(Config(optimizer=AdamW()), Config(optimizer=SGD()))
    assert changed['optimizer.kind'] == ('adamw', 'sgd')
    assert changed['optimizer.b1'] == (0.9, None)
    assert changed['optimizer.momentum'] == (None, 0.9)


# ------------------------------------------------------------------------------------------------------- depth dial


@pytest.mark.parametrize('depth', [1, 2, 4, 6, 8, 12, 20, 32])
def test_everything_follows_from_the_depth_by_the_documented_rules(depth):
    config = Config.for_depth(depth)
    model = config.model
    assert (model.num_layers, model.width, model.key_size) == (depth, 64 * depth, 64)
    assert config.training.batch_size == 16 * max(1, round((depth / 4) ** 2))
    assert config.optimizer.learning_rate == pytest.approx(3e-3 * 4 * 64 / model.width)
    # 20 tokens a parameter that is no embedding: attention's four matrices and the feed-forward's three.
    weights = depth * (4 * model.width**2 + 3 * model.width * model.hidden_width)
    tokens = config.training.steps * config.training.batch_size * config.data.sequence_length
    assert tokens == pytest.approx(20 * weights, rel=0.5 / config.training.steps + 1e-9)
    assert config.schedule.horizon == config.training.steps
    assert from_json(to_json(config)) == config


def test_the_parameters_it_counts_are_those_of_the_model():
    from llm.analysis.memory import parameter_table

    config = Config.for_depth(3)
    kernels = sum(part.count for part in parameter_table(config.model) if part.part.endswith('kernel'))
    tokens = config.training.steps * config.training.batch_size * config.data.sequence_length
    assert tokens == pytest.approx(20 * kernels, rel=0.01)


def test_a_deeper_model_is_larger_and_sees_more():
    configs = [Config.for_depth(depth) for depth in range(1, 25)]
    tokens = [c.training.steps * c.training.batch_size * c.data.sequence_length for c in configs]
    for smaller, larger in itertools.pairwise(configs):
        assert larger.model.width > smaller.model.width
        assert larger.model.num_heads > smaller.model.num_heads
        assert larger.training.batch_size >= smaller.training.batch_size
        assert larger.optimizer.learning_rate < smaller.optimizer.learning_rate
    assert tokens == sorted(set(tokens))


def test_the_depth_dial_takes_overrides_and_refuses_nonsense():
    assert Config.for_depth(2, seed=5, name='mine').seed == 5
    with pytest.raises(ValueError, match='depth is 0'):
        Config.for_depth(0)
