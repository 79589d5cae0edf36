"""No dead knob: every field of the config changes something that can be seen.

`walk` lists every field; each has a probe below, and a field without one fails the first test. A probe is two values or
more (of a field that is a choice, all of them) and a way of looking: what is seen must differ between any two.
"""

import dataclasses
import functools
import json
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.analysis.memory import memory_estimate
from llm.config import (
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
    ModelConfig,
    Muon,
    NextToken,
    ParallelConfig,
    TokenizerConfig,
    TrainingConfig,
    WarmupStableDecay,
)
from llm.data.batches import TrainBatches
from llm.data.prepare import prepare
from llm.errors import MachineError, UserError
from llm.model import Transformer, attention_backends
from llm.model.patches import image_inputs
from llm.parallel import mesh as mesh_lib
from llm.parallel.step import TrainStep
from llm.training.checkpoint import Checkpoints, params_sha256
from llm.training.divergence import divergence
from llm.training.evaluate_text import TextEvaluator
from llm.training.initialize import initialize
from llm.training.schedule import learning_rate_factor
from llm.training.train_state import TrainState, abstract_state, create_state
from llm.training.train_step import hyperparameters, make_train_step
from llm.workdir import Workdir

OPTIMIZERS = {cls.kind: cls for cls in (AdamW, Adafactor, Lion, Muon, SGD)}
SCHEDULES = {cls.kind: cls for cls in (Cosine, Linear, WarmupStableDecay, Constant, InverseSquareRoot)}
MODEL = ModelConfig(vocab_size=12, context_length=8, num_layers=1, width=16, num_heads=4, feed_forward_width=24)
TRAINED = Config(
    model=MODEL, data=DataConfig(sequence_length=8), schedule=Constant(warmup=1), training=TrainingConfig(batch_size=4)
)


def walk(cls: type = Config, prefix: str = '') -> list[str]:
    """Every field, those of each member of a choice under the member's kind."""
    names = []
    for f in dataclasses.fields(cls):
        members = [member for member in typing.get_args(f.type) if dataclasses.is_dataclass(member)]
        if dataclasses.is_dataclass(f.type):
            names += walk(f.type, f'{prefix}{f.name}.')
        elif members:
            names.append(prefix + f.name)
            for member in members:
                names += walk(member, f'{prefix}{f.name}.{member.kind}.')
        else:
            names.append(prefix + f.name)
    return names


def replaced(config: Config, section: str, **values) -> Config:
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **values)})


# ------------------------------------------------------------------------------------------------------------- model

TURNS = {'rope_original_context': 16, 'rope_slow_turns': 1.0, 'rope_fast_turns': 4.0}
FIVE_PAIRS = TURNS | {'head_dim': 10, 'rope_base': 20.0}
READS_IMAGES = {'image_size': 4, 'patch_size': 2, 'context_length': 16}
MODEL_KNOBS = {
    'vocab_size': ([12, 13], {}),
    'context_length': ([8, 9], {'position': 'learned'}),
    'num_layers': ([1, 2], {}),
    'encoder_layers': ([0, 1, 2], {}),
    'width': ([16, 32], {'head_dim': 4}),
    'num_heads': ([4, 2], {'head_dim': 4}),
    'num_kv_heads': ([None, 2, 1], {}),
    'head_dim': ([None, 6], {}),
    'feed_forward_width': ([None, 24, 0], {}),
    'activation': (None, {}),
    'position': (None, {}),
    'rope_base': ([10_000.0, 100.0], {}),
    'rope_scaling': (['linear', 'llama3', 'yarn'], {'rope_factor': 4.0} | TURNS),
    'rope_factor': ([2.0, 4.0], {'rope_scaling': 'linear'}),
    'rope_original_context': ([16, 32], {'rope_scaling': 'yarn', 'rope_factor': 4.0} | FIVE_PAIRS),
    'rope_slow_turns': ([0.5, 1.0], {'rope_scaling': 'llama3', 'rope_factor': 4.0} | TURNS),
    'rope_fast_turns': ([3.0, 5.0], {'rope_scaling': 'llama3', 'rope_factor': 4.0} | TURNS),
    'rope_whole_pairs': ([True, False], {'rope_scaling': 'yarn', 'rope_factor': 4.0} | FIVE_PAIRS),
    'rope_amplitude': ([None, 2.0], {'rope_scaling': 'yarn', 'rope_factor': 4.0} | TURNS),
    'local_rope_base': ([None, 20.0], {'windows': (3,)}),
    'attention_scale': ([None, 2.0], {}),
    'attention_softcap': ([None, 0.1], {}),
    'logit_softcap': ([None, 0.1], {}),
    'qk_norm': ([False, True], {}),
    'windows': ([(None,), (2,), (3,)], {}),
    'norm': (None, {}),
    'norm_placement': (None, {}),
    'norm_epsilon': ([1e-6, 0.5], {}),
    'norm_unit_offset': ([False, True], {}),
    'biases': ([(), *((site,) for site in typing.get_args(typing.get_args(ModelConfig.__annotations__['biases'])[0]))],
               {'tied_embeddings': False}),
    'tied_embeddings': ([True, False], {}),
    'embedding_scale': ([1.0, 2.0], {}),
    'embedding_norm': ([False, True], {}),
    'dropout': ([0.0, 0.2, 0.4], {}),
    'init_std': ([0.02, 0.04], {}),
    'init_kernel': (None, {}),
    'init_output': (None, {}),
    'base_width': ([4, 8, 16], {'parametrization': 'mup'}),
    'param_dtype': (['float32', 'bfloat16', 'float16'], {}),
    'compute_dtype': (['float32', 'bfloat16', 'float16'], {}),
    'logit_dtype': (['float32', 'bfloat16', 'float16'], {}),
    'image_size': ([None, 4], {}),
    'patch_size': ([1, 2, 4], READS_IMAGES),
    'image_channels': ([1, 3], READS_IMAGES),
    'image_positions': (None, READS_IMAGES),
    'image_attention': (None, READS_IMAGES),
}  # fmt: skip


def test_attention_backend():
    """What runs on each platform: the choice of the platform, or the one asked for, or an error."""

    def see(name):
        model = dataclasses.replace(MODEL, width=32, compute_dtype='bfloat16', attention_backend=name)
        running = lambda platform: (
            attention_backends.choose(model, platform)
            if name == 'auto'
            else attention_backends.unavailable(name, model, platform) or name
        )
        return tuple(running(platform) for platform in ('cpu', 'gpu', 'tpu'))

    check_apart('attention_backend', ['auto', 'reference', 'blocks', 'cudnn', 'splash'], see)


def values_of(cls: type, name: str, values: list | None) -> list:
    """The given values, or for None every option of a choice."""
    return values or list(typing.get_args(next(f.type for f in dataclasses.fields(cls) if f.name == name)))


@functools.cache
def seen_in_model(config: ModelConfig) -> str:
    """Names, shapes, dtypes and values of the first parameters, and logits under a dropout key: of text, and of an
    image if the model reads one."""
    model, tokens = Transformer(config), jnp.arange(8, dtype=jnp.int32)[None, :]
    size, number = config.image_size or 1, config.patches_per_image
    shape = (1, 1, size, size, config.image_channels)
    batch = {
        'images': jnp.linspace(0, 1, size * size * config.image_channels).reshape(shape) if number else None,
        'patches': jnp.clip(jnp.arange(8, dtype=jnp.int32)[None, :], 0, number),
    }

    @jax.jit
    def start():
        params = model.init(jax.random.key(0), tokens[:, :1])['params']
        images = image_inputs(model, params, batch)
        return params, model.apply({'params': params}, tokens, rngs={'dropout': jax.random.key(1)}, **images).logits

    params, logits = start()
    return params_sha256({'params': params, 'logits': logits})


def shapes_in_model(config: ModelConfig) -> str:
    """Names, shapes and dtypes of parameters and logits."""
    model, tokens = Transformer(config), jnp.zeros((1, 8), jnp.int32)
    shapes = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), tokens))
    return str((shapes[0].logits.dtype, jax.tree_util.tree_leaves_with_path(shapes[1])))


def check_apart(name: str, values: list, see) -> None:
    seen = [see(value) for value in values]
    for i, one in enumerate(seen):
        for j in range(i):
            assert one != seen[j], f'{name}: {values[j]!r} and {values[i]!r} come to the same'


def with_knob(also: dict, name: str, value) -> ModelConfig:
    if name == 'image_size' and value:  # which asks for a patch size, and so for room for its tokens
        also = READS_IMAGES
    if value == 'linear':  # which asks for less than the other kinds
        also = {field: v for field, v in also.items() if field not in TURNS}
    return dataclasses.replace(MODEL, **{**also, name: value})


@pytest.mark.parametrize('name', MODEL_KNOBS)
def test_model(name):
    values, also = MODEL_KNOBS[name]
    configs = [with_knob(also, name, value) for value in values_of(ModelConfig, name, values)]
    if len({shapes_in_model(config) for config in configs}) < len(configs):
        check_apart(name, configs, seen_in_model)


def test_parametrization():
    mup = dataclasses.replace(MODEL, parametrization='mup', base_width=4)
    check_apart('parametrization', [MODEL, mup], seen_in_model)


def test_remat_keeps_less_from_the_forward_pass():
    deep = lambda remat: Config(
        model=dataclasses.replace(MODEL, num_layers=12, remat=remat), data=DataConfig(sequence_length=8)
    )
    kept = [memory_estimate(deep(remat)).activations for remat in ('none', 'dots', 'full')]
    assert kept[0] > kept[1] > kept[2]


# ---------------------------------------------------------------------------------------------------------- updates

OPTIMIZER_KNOBS = {
    'learning_rate': [1e-2, 2e-2],
    'adam_learning_rate': [1e-2, 2e-2],
    'weight_decay': [0.0, 0.5],
    'b1': [0.9, 0.5],
    'b2': [0.9, 0.5],
    'momentum': [0.9, 0.5],
    'decay_rate': [0.8, 0.5],
    'epsilon': [1e-8, 1e-1],
}
SCHEDULE_KNOBS = {'horizon': [40, 50], 'warmup': [5, 10], 'decay': [10, 20], 'final_fraction': [0.0, 0.5]}


@functools.cache
def _compiled(config: Config):
    """The first state from a seed, and the step; the numbers of objective and optimizer are arguments of both."""
    return jax.jit(lambda seed: create_state(config, seed)), jax.jit(make_train_step(config, config.log.per_layer))


def seen_in_updates(config: Config) -> str:
    """Parameters, averages and metrics after three updates."""
    numbers = NextToken(vocabulary_chunk=config.objective.vocabulary_chunk)
    plain = dataclasses.replace(config, seed=0, optimizer=type(config.optimizer)(), objective=numbers)
    start, step = _compiled(plain)
    state = start(config.seed)
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 12, (4, 9)), jnp.int32)
    batch = {
        'inputs': ids[:, :-1],
        'targets': ids[:, 1:],
        'loss_weights': jnp.ones((4, 8)),
        'segment_ids': jnp.ones((4, 8), jnp.int32),
        'positions': jnp.tile(jnp.arange(8, dtype=jnp.int32), (4, 1)),
    }
    for _ in range(3):
        state, metrics = step(state, batch, hyperparameters(config))
    return params_sha256({'params': state.params, 'ema': state.ema, 'metrics': metrics})


OPTIMIZER_FIELDS = [(kind, f.name) for kind, cls in OPTIMIZERS.items() for f in dataclasses.fields(cls)]
SCHEDULE_FIELDS = [(kind, f.name) for kind, cls in SCHEDULES.items() for f in dataclasses.fields(cls)]


@pytest.mark.parametrize(('kind', 'name'), OPTIMIZER_FIELDS)
def test_optimizer(kind, name):
    see = lambda value: seen_in_updates(dataclasses.replace(TRAINED, optimizer=OPTIMIZERS[kind](**{name: value})))
    check_apart(name, OPTIMIZER_KNOBS[name], see)


def test_choice_of_optimizer():
    see = lambda cls: seen_in_updates(dataclasses.replace(TRAINED, optimizer=cls(learning_rate=1e-2, weight_decay=0.1)))
    check_apart('optimizer', list(OPTIMIZERS.values()), see)


@pytest.mark.parametrize(('kind', 'name'), SCHEDULE_FIELDS)
def test_schedule(kind, name):
    also = {'horizon': 40, 'warmup': 5, 'decay': 10}

    def see(value):
        cls = SCHEDULES[kind]
        given = {n: v for n, v in (also | {name: value}).items() if n in {f.name for f in dataclasses.fields(cls)}}
        return np.asarray(learning_rate_factor(cls(**given), jnp.arange(1, 60))).tobytes()

    check_apart(name, SCHEDULE_KNOBS[name], see)


def test_choice_of_schedule():
    updates = jnp.arange(1, 1000, 7)
    see = lambda cls: np.asarray(learning_rate_factor(cls(warmup=5), updates)).tobytes()
    check_apart('schedule', list(SCHEDULES.values()), see)
    see = lambda schedule: seen_in_updates(dataclasses.replace(TRAINED, schedule=schedule))
    check_apart('schedule', [Constant(warmup=1), Linear(horizon=5, warmup=1)], see)


UPDATE_KNOBS = {
    'seed': lambda value: dataclasses.replace(TRAINED, seed=value),
    'objective': lambda value: dataclasses.replace(TRAINED, objective=value),
    'training.clip_norm': lambda value: replaced(
        dataclasses.replace(TRAINED, optimizer=SGD()), 'training', clip_norm=value
    ),
    'training.ema_decay': lambda value: replaced(TRAINED, 'training', ema_decay=value),
    'log.per_layer': lambda value: replaced(TRAINED, 'log', per_layer=value),
}
UPDATE_VALUES = {
    'seed': [0, 1],
    'objective': [NextToken(), NextToken(z_loss=0.1), SFT(label_smoothing=0.1)],
    'training.clip_norm': [None, 0.1, 0.2],
    'training.ema_decay': [None, 0.5, 0.9],
    'log.per_layer': [False, True],
}


@pytest.mark.parametrize('name', UPDATE_KNOBS)
def test_updates(name):
    check_apart(name, UPDATE_VALUES[name], lambda value: seen_in_updates(UPDATE_KNOBS[name](value)))


def test_the_seed_moves_dropout_too():
    """The same start, other masks: the seed is an argument of the step."""
    config = replaced(TRAINED, 'model', dropout=0.5)
    start, step = _compiled(config)
    batch = dict.fromkeys(('inputs', 'targets', 'positions'), jnp.zeros((4, 8), jnp.int32))
    batch |= {'segment_ids': jnp.ones((4, 8), jnp.int32), 'loss_weights': jnp.ones((4, 8))}
    see = lambda seed: params_sha256(
        step(start(0), batch, hyperparameters(dataclasses.replace(config, seed=seed)))[0].params
    )
    check_apart('seed', [0, 1], see)


def largest_logits(config: Config) -> int:
    """Most numbers with the vocabulary as an axis that exist at once in a step."""
    state = jax.eval_shape(lambda: create_state(config, 0))
    batch = {
        name: jax.ShapeDtypeStruct((4, 8), jnp.float32 if name == 'loss_weights' else jnp.int32)
        for name in ('inputs', 'targets', 'loss_weights', 'segment_ids', 'positions')
    }
    sizes = []

    def look(jaxpr):
        for equation in jaxpr.eqns:
            for variable in equation.outvars:
                shape = getattr(variable.aval, 'shape', ())
                if len(shape) == 3 and shape[-1] == 12:
                    sizes.append(int(np.prod(shape)))
            for sub in jax.core.jaxprs_in_params(equation.params):
                look(sub)

    look(jax.make_jaxpr(make_train_step(config))(state, batch, hyperparameters(config)).jaxpr)
    return max(sizes)


def test_accumulation_and_chunks_cut_the_logits():
    assert largest_logits(TRAINED) == 4 * 8 * 12
    assert largest_logits(replaced(TRAINED, 'training', accumulation=2)) == 2 * 8 * 12
    assert largest_logits(replaced(TRAINED, 'objective', vocabulary_chunk=2)) == 4 * 2 * 12


# ------------------------------------------------------------------------------------------------------ text to batches

WORDS = (
    'alpha',
    'beta',
    'gamma',
    'delta',
    'epsilon',
    'zeta',
    'theta',
    'kappa',
    'lambda',
    'sigma',
    'omega',
    'tau',
    'psi',
)
LINES = [
    f'def {WORDS[i % 13]}_{WORDS[i % 7]}({WORDS[i % 11]}):\n'
    f'    return {i * 7919} + {WORDS[i * 5 % 13]}  # spam {2024 + i % 3}\n'
    for i in range(120)
]


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    """A folder with two corpora, and one whose bytes are not all UTF-8."""
    folder = tmp_path_factory.mktemp('corpus')
    for name, lines in (('a', LINES), ('b', [line.replace('return', 'yield') for line in LINES[:60]])):
        rows = [json.dumps({'text': line, 'title': line[:8]}) for line in lines]
        (folder / f'{name}.jsonl').write_text('\n'.join(rows))
    (folder / 'bad.jsonl').write_bytes((folder / 'a.jsonl').read_bytes().replace(b'spam', b'sp\xffm'))
    return folder


def reading(corpus, *names: str, **data) -> Config:
    """Config for data: the byte tokenizer, windows of 8."""
    corpora = tuple(f'jsonl:{corpus}/{name}.jsonl' for name in names or 'a')
    return Config(
        model=ModelConfig(vocab_size=330, context_length=16),
        tokenizer=TokenizerConfig(kind='byte'),
        data=DataConfig(**{'corpora': corpora, 'sequence_length': 8} | data),
        training=TrainingConfig(batch_size=4),
    )


def seen_in_batches(config: Config) -> str:
    try:
        batches = TrainBatches(config, prepare(config).train)
    except UserError as error:
        return str(error)
    return params_sha256([batches.batch(i) for i in range(20)])


@pytest.mark.parametrize(
    'name', ['corpora', 'weights', 'text_field', 'bad_bytes', 'sequence_length', 'document_masking', 'seed']
)
def test_data(corpus, name):
    see = lambda *names, **data: seen_in_batches(reading(corpus, *names, **data))
    seen = {
        'corpora': lambda: [see('a'), see('b'), see('a', 'b'), see('b', 'a')],
        'weights': lambda: [see('a', 'b'), see('a', 'b', weights=(1.0, 1.0)), see('a', 'b', weights=(1.0, 9.0))],
        'text_field': lambda: [see(text_field='text'), see(text_field='title')],
        'bad_bytes': lambda: [see('bad', bad_bytes='replace'), see('bad', bad_bytes='refuse')],
        'sequence_length': lambda: [see(sequence_length=8), see(sequence_length=16)],
        'document_masking': lambda: [see(document_masking=True), see(document_masking=False)],
        'seed': lambda: [see(seed=0), see(seed=1)],
    }[name]()
    check_apart(name, seen, lambda value: value)


@pytest.mark.parametrize('name', ['kind', 'split_digits', 'training_bytes'])
def test_tokenizer(corpus, name):
    base = TokenizerConfig(kind='bpe')
    learned = lambda **values: (
        prepare(replaced(dataclasses.replace(reading(corpus), tokenizer=base), 'tokenizer', **values)).tokenizer
    )
    if name == 'kind':
        check_apart(name, values_of(TokenizerConfig, name, None), lambda kind: learned(kind=kind).digest)
    elif name == 'split_digits':
        longest = lambda value: max(
            len(piece) for i in range(272, 330) if (piece := learned(split_digits=value).token_bytes(i)).isdigit()
        )
        assert learned(split_digits=False).digest != learned(split_digits=True).digest
        assert longest(True) == 1
    else:
        check_apart(name, [1_000_000, 3_000], lambda value: learned(training_bytes=value).digest)


def test_batch_size(corpus):
    config = reading(corpus)
    check_apart('batch_size', [4, 8], lambda value: seen_in_batches(replaced(config, 'training', batch_size=value)))


# ---------------------------------------------------------------------------------------------- divergence, checkpoints


def test_divergence_window_and_z_score():
    recent = [1.0, 1.1, 0.9, 1.0, 1.1]
    assert divergence(DivergenceConfig(window=5, z_score=8.0), 1.5, 1.0, recent) is None
    assert divergence(DivergenceConfig(window=5, z_score=4.0), 1.5, 1.0, recent) is not None
    assert divergence(DivergenceConfig(window=6, z_score=4.0), 1.5, 1.0, recent) is None  # too few to judge by


@pytest.mark.parametrize(
    ('keep', 'left'),
    [
        ({}, [6]),
        ({'keep_last': 2}, [5, 6]),
        ({'keep_every': 3}, [0, 3, 6]),
        ({'keep_best': True}, [2, 6]),
        ({'keep_last': 2, 'keep_every': 4, 'keep_best': True}, [0, 2, 4, 5, 6]),
    ],
    ids=str,
)
def test_which_checkpoints_are_kept(tmp_path, keep, left):
    """Seven checkpoints, of which the third has the lowest held-out loss."""
    config = CheckpointConfig(**{'keep_last': 1, 'keep_every': None, 'keep_best': False} | keep)
    checkpoints = Checkpoints(Workdir(tmp_path).checkpoints)
    state = TrainState(jnp.int32(0), {'x': jnp.zeros(2)}, {}, {'y': jnp.zeros(1)}, None)
    for step in range(7):
        checkpoints.save(step, state.stored(), {'held_out_loss': abs(step - 2.0)}, config)
    checkpoints.finish(config)
    assert checkpoints.steps() == left
    checkpoints.close()


# -------------------------------------------------------------------------------------------------------- whole runs


def running(corpus, **sections) -> Config:
    """Config of a run of a few steps."""
    config = dataclasses.replace(
        reading(corpus),
        model=ModelConfig(vocab_size=272, context_length=8, num_layers=1, width=8, num_heads=2, feed_forward_width=8),
        schedule=Constant(warmup=0),
        training=TrainingConfig(steps=4, batch_size=4, ema_decay=0.5),
        checkpoint=CheckpointConfig(every=2, keep_last=9),
        evaluation=EvaluationConfig(every=4, max_windows=1, batch_size=1, sample_tokens=0),
        log=LogConfig(every=2, tensorboard=False),
    )
    return dataclasses.replace(config, **sections)


def trained(config: Config, path) -> Workdir:
    from llm.training.loop import train

    train(config, path, progress=False, devices=jax.devices()[:1])
    return Workdir.open(path)


@pytest.fixture(scope='module')
def plain_run(corpus, tmp_path_factory):
    return trained(running(corpus), tmp_path_factory.mktemp('plain'))


@pytest.fixture(scope='module')
def other_run(corpus, tmp_path_factory):
    """The same with every field of length and logging changed."""
    config = running(
        corpus,
        name='other',
        training=TrainingConfig(steps=3, batch_size=4, ema_decay=0.5),
        checkpoint=CheckpointConfig(every=1, keep_last=9),
        evaluation=EvaluationConfig(every=1, max_windows=3, batch_size=1, sample_prompt='x', sample_tokens=3),
        log=LogConfig(every=3, tensorboard=True, per_layer=True),
    )
    return trained(config, tmp_path_factory.mktemp('other'))


LEFT_BY_A_RUN = {
    'training.steps': (lambda run: run.summary()['step'], 4, 3),
    'checkpoint.every': (lambda run: Checkpoints(run.checkpoints).steps(), [0, 2, 4], [0, 1, 2, 3]),
    'evaluation.every': (lambda run: [row['step'] for row in run.rows('evaluation')], [4], [1, 2, 3]),
    'evaluation.sample_prompt': (lambda run: [row['prompt'] for row in run.rows('sample')], [], ['x'] * 3),
    'evaluation.sample_tokens': (
        lambda run: max((len(r['text']) for r in run.rows('sample')), default=0) <= 3,
        True,
        True,
    ),
    'log.every': (lambda run: [row['step'] for row in run.rows('train')], [2, 4], [3]),
    'log.tensorboard': (lambda run: (run.path / 'events').is_dir(), False, True),
    'log.per_layer': (lambda run: 'grad_norm/blocks/attention/query/kernel' in run.rows('train')[-1], False, True),
    'name': (lambda run: run.config().name, 'run', 'other'),
}


@pytest.mark.parametrize('name', LEFT_BY_A_RUN)
def test_what_a_run_leaves(plain_run, other_run, name):
    look, plain, other = LEFT_BY_A_RUN[name]
    assert look(plain_run) == plain
    assert look(other_run) == other


def test_the_name_heads_the_report(plain_run, other_run):
    from llm.analysis import report

    seen = []
    for run in (plain_run, other_run):
        page = report.write_report(run, baselines={}, prompt='x', probabilities=[], tokenisation=[])
        text = page.read_text()
        seen.append(text[text.index('<h1') : text.index('</h1>')])
    assert 'other' in seen[1]
    assert 'other' not in seen[0]


def test_windows_of_an_evaluation(corpus, plain_run, other_run, monkeypatch):
    """Along the way `max_windows` are read, at the end all; the size of a batch decides how many at once."""
    rows = {row['step']: row['tokens'] for row in other_run.rows('evaluation')}
    assert rows[3] == plain_run.summary()['held_out']['tokens']
    assert 2 * 8 < rows[1] == rows[2] <= 3 * 8 < rows[3]
    config = running(corpus)
    prepared = prepare(config)
    mesh = mesh_lib.make_mesh(ParallelConfig(), jax.devices()[:1])
    params = jax.jit(lambda: create_state(config, 0))().params
    place, placed = mesh_lib.place, []
    monkeypatch.setattr(mesh_lib, 'place', lambda mesh, rows, batch: (placed.append(rows), place(mesh, rows, batch))[1])
    for size in (1, 4):
        sized = replaced(config, 'evaluation', batch_size=size)
        TextEvaluator(sized, prepared.tokenizer, prepared.held_out, mesh).measure(params, max_windows=4)
    assert placed == [1, 1, 1, 1, 4]


@pytest.mark.parametrize('name', ['workdir', 'step', 'optimizer_state', 'continue_step'])
def test_init_from(corpus, plain_run, tmp_path, name):
    here = str(plain_run.path)
    given = {
        'workdir': [{}, {'workdir': here}],
        'step': [{'workdir': here}, {'workdir': here, 'step': 2}, {'workdir': here, 'step': 4}][1:],
        'optimizer_state': [{'workdir': here}, {'workdir': here, 'optimizer_state': True}],
        'continue_step': [{'workdir': here}, {'workdir': here, 'continue_step': True}],
    }[name]

    def see(values):
        config = running(corpus, init_from=InitFromConfig(**values))
        mesh = mesh_lib.make_mesh(ParallelConfig(), jax.devices()[:1])
        abstract = abstract_state(config)
        placed = mesh_lib.with_shardings(mesh, abstract, abstract.params)
        state, record, _ = initialize(config, Workdir(tmp_path), Checkpoints(Workdir(tmp_path).checkpoints), placed)
        parts = {'params': state.params, 'ema': state.ema, 'optimizer': state.opt_state, 'step': state.step}
        return params_sha256(parts) + json.dumps(record)

    check_apart(name, given, see)


@pytest.mark.parametrize('name', ['wrapper', 'data', 'fsdp', 'tensor', 'context'])
def test_division_of_the_work(name):
    """Each way of dividing a step makes another program of it (and, in tests/parallel, the same curve)."""
    given = {'wrapper': 'pmap', 'data': 4, 'fsdp': 4, 'tensor': 2, 'context': 2}
    config = Config(model=ModelConfig(num_layers=1, num_heads=4, width=64), training=TrainingConfig(batch_size=8))

    def see(parallel):
        cut = dataclasses.replace(config, parallel=parallel)
        mesh = mesh_lib.make_mesh(parallel, jax.devices()[: parallel.data or 4])
        abstract = abstract_state(cut)
        placed = mesh_lib.with_shardings(mesh, abstract, abstract.params)
        step = TrainStep(cut, mesh, placed)
        shapes = {name: jax.ShapeDtypeStruct((8, 256), np.int32) for name in ('inputs', 'targets')}
        shapes |= dict.fromkeys(('segment_ids', 'positions'), shapes['inputs'])
        shapes |= {'loss_weights': jax.ShapeDtypeStruct((8, 256), np.float32)}
        if parallel.wrapper == 'pmap':
            shapes = {name: jax.ShapeDtypeStruct((4, 2, 256), s.dtype) for name, s in shapes.items()}
        return f'{dict(mesh.shape)}\n{step.lower(placed, shapes, hyperparameters(cut)).as_text()}'

    start = ParallelConfig(data=2) if name == 'data' else ParallelConfig()
    check_apart(name, [start, ParallelConfig(**{name: given[name]})], see)


@pytest.mark.slow
def test_rollbacks_and_batches_left_out(corpus, tmp_path):
    """A learning rate that explodes at once: the run goes back so often, leaves out so many batches, and gives up."""

    def rollbacks(**values) -> list[str]:
        config = running(
            corpus,
            optimizer=SGD(learning_rate=1e30),
            training=TrainingConfig(steps=9, batch_size=4, clip_norm=None),
            divergence=DivergenceConfig(**values),
            checkpoint=CheckpointConfig(every=9),
            evaluation=EvaluationConfig(every=9, sample_tokens=0),
        )
        path = tmp_path / '-'.join(map(str, values.values()))
        with pytest.raises(MachineError, match=f'gave up after {values["max_rollbacks"]} rollbacks'):
            trained(config, path)
        return [row['message'] for row in Workdir(path).rows('event') if row['event'] == 'rollback']

    assert rollbacks(max_rollbacks=0, skip=1) == []
    (one,) = rollbacks(max_rollbacks=1, skip=1)
    (two,) = rollbacks(max_rollbacks=1, skip=2)
    assert 'leaving out batches 1 to 1' in one
    assert 'leaving out batches 0 to 1' in two


# ---------------------------------------------------------------------------------------------------------- all of them


def probed() -> list[str]:
    """The fields that the tests above look at."""
    return [
        *(f'model.{name}' for name in MODEL_KNOBS),
        'model.parametrization',
        'model.remat',
        'model.attention_backend',
        'optimizer',
        *(f'optimizer.{kind}.{name}' for kind, name in OPTIMIZER_FIELDS if name in OPTIMIZER_KNOBS),
        'schedule',
        *(f'schedule.{kind}.{name}' for kind, name in SCHEDULE_FIELDS if name in SCHEDULE_KNOBS),
        *UPDATE_KNOBS,
        'training.accumulation',
        *(f'data.{name}' for name in ('corpora', 'weights', 'text_field', 'bad_bytes', 'sequence_length')),
        *(f'data.{name}' for name in ('document_masking', 'seed')),
        *(f'tokenizer.{name}' for name in ('kind', 'split_digits', 'training_bytes')),
        'training.batch_size',
        *(f'divergence.{name}' for name in ('window', 'z_score', 'skip', 'max_rollbacks')),
        *(f'checkpoint.{name}' for name in ('keep_last', 'keep_every', 'keep_best')),
        *LEFT_BY_A_RUN,
        *(f'evaluation.{name}' for name in ('max_windows', 'batch_size')),
        *(f'parallel.{name}' for name in ('wrapper', 'data', 'fsdp', 'tensor', 'context')),
        *(f'init_from.{name}' for name in ('workdir', 'step', 'optimizer_state', 'continue_step')),
    ]


def test_every_field_has_a_probe():
    """Those of objectives and of LoRA are in dead_objective_knobs_test.py."""
    here = {name for name in walk() if not name.startswith(('objective.', 'lora.'))}
    missing = here - set(probed())
    assert not missing, f'no test shows that these fields do anything; add a probe: {sorted(missing)}'
    stale = set(probed()) - here
    assert not stale, f'these fields are gone; remove their probes: {sorted(stale)}'
