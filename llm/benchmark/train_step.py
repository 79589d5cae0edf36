"""`benchmark train`: one update of a model, whole, on random tokens."""

import contextlib
import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from llm.analysis import flops
from llm.benchmark import backends, models, program
from llm.benchmark.measure import measure
from llm.benchmark.options import Train
from llm.benchmark.result import Case
from llm.config import Config
from llm.errors import UserError
from llm.parallel import mesh as mesh_lib
from llm.parallel.step import TrainStep
from llm.training.train_state import abstract_state, create_state
from llm.training.train_step import hyperparameters, make_train_step

DOCUMENTS_PER_ROW = 4  # on average, where documents are masked
PROFILED_STEPS = 3


def dtypes(options: Train) -> tuple[str, ...]:
    return tuple({named.config.model.compute_dtype for named in _configs(options)})


def _configs(options: Train) -> list[models.Named]:
    return models.configs(options, lengths=options.length)


def plan(options: Train) -> list[tuple[str, Callable[[], list[Case]]]]:
    """Every model, masked or not, by every backend, on every number of devices."""
    for count in options.devices:
        if not 1 <= count <= jax.device_count():
            raise UserError(f'--devices is {count}; there are {jax.device_count()} here')
    planned = []
    for label, config, configured in _configs(options):
        masked = ('on',) if config.data.document_masking else ('off',)
        for masking in options.masking or masked:
            data = dataclasses.replace(config.data, document_masking=masking == 'on')
            for backend, by_name in backends.asked(options.backends or (configured,)):
                chosen, reason = backends.resolve(dataclasses.replace(config, data=data), backend, by_name)
                model = chosen.model
                for devices in options.devices:
                    mesh_lib.check_divides(chosen, mesh_lib.make_mesh(chosen.parallel, jax.devices()[:devices]))
                    name = f'{label} masking {masking}' + _division(chosen, devices)
                    case = Case(
                        kind='train',
                        name=name,
                        shape=models.shape(config) | {'masking': masking == 'on', 'devices': devices},
                        dtype=model.compute_dtype,
                        backend=backend,
                        kernel=f'{model.attention_backend} attention',
                        unavailable=reason,
                        devices=devices,
                    )
                    if reason:
                        planned.append((name, lambda case=case: [case]))
                        continue
                    settings = {'repeats': options.repeats, 'warmup': options.warmup, 'seed': options.seed}
                    run = functools.partial(step_case, case, chosen, **settings, compiled_cost=options.compiled_cost)
                    folder = pathlib.Path(options.profile) / _file_name(name) if options.profile else None
                    planned.append((name, lambda run=run, folder=folder: [run(profile=folder)]))
    return planned


def step_case(
    case: Case,
    config: Config,
    *,
    repeats: int,
    warmup: int,
    seed: int = 0,
    compiled_cost: bool = True,
    profile: pathlib.Path | None = None,
) -> Case:
    """Measures the training step of a config; `case` says what it is called and on how many devices it runs."""
    mesh = mesh_lib.make_mesh(config.parallel, jax.devices()[: case.devices])
    mesh_lib.check_divides(config, mesh)
    abstract = abstract_state(config)
    placed = mesh_lib.with_shardings(mesh, abstract, abstract.params)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, placed)
    state = jax.jit(lambda seed: create_state(config, seed), out_shardings=shardings)(config.seed)
    hyper = jax.device_put(hyperparameters(config), mesh_lib.replicated(mesh))
    step = TrainStep(config, mesh, placed)
    make = jax.jit(functools.partial(random_batch, config))
    key = jax.random.key(seed)
    inputs = lambda i: (step.place(jax.device_get(make(jax.random.fold_in(key, i)))),)
    by_compiler = config.parallel.wrapper == 'jit'
    with jax.set_mesh(mesh) if by_compiler else contextlib.nullcontext():
        built = program.build(step.program, state, *inputs(0), hyper)
    memory = program.memory(built.compiled)
    # pmap splits what it is given on the way to the compiled program, which is the loop's work too.
    run = built.compiled if by_compiler else step
    timed = lambda state, batch: run(state, batch, hyper)
    if profile is not None:
        state = trace(timed, state, inputs, profile)
    timing = measure(timed, inputs, repeats=repeats, warmup=warmup, carry=state)
    tokens = config.training.batch_size * config.data.sequence_length
    per_token = functools.partial(flops.training_flops_per_token, config.model, config.data.sequence_length)
    work = {convention: tokens * per_token(convention) for convention in flops.CONVENTIONS}
    cost, notes = {'flops': None, 'bytes': None}, ()
    if compiled_cost:
        cost = extrapolated_cost(config)
        notes = ("compiled: from programs of one and two layers without loops, continued to the model's depth",)
    if profile is not None:
        notes = (*notes, f'trace in {profile}')
    return dataclasses.replace(
        case,
        tokens=tokens,
        flops=work | {'compiled': cost['flops']},
        bytes={'compiled': cost['bytes']},
        memory=memory,
        compile_seconds=built.seconds,
        notes=(*case.notes, *notes),
    ).timed(timing)


def random_batch(config: Config, key: jax.Array) -> dict[str, jax.Array]:
    """Random tokens in the form that training reads; with document masking, cut into documents of random length."""
    shape = (config.training.batch_size, config.data.sequence_length)
    for_inputs, for_targets, for_documents = jax.random.split(key, 3)
    batch = {
        'inputs': jax.random.randint(for_inputs, shape, 0, config.model.vocab_size, jnp.int32),
        'targets': jax.random.randint(for_targets, shape, 0, config.model.vocab_size, jnp.int32),
        'loss_weights': jnp.ones(shape, jnp.float32),
    }
    if not config.data.document_masking:
        return batch
    return batch | random_documents(for_documents, *shape)


def random_documents(key: jax.Array, rows: int, length: int) -> dict[str, jax.Array]:
    """`segment_ids` from 1 and `positions` of rows packed with documents, `DOCUMENTS_PER_ROW` on average."""
    starts = jax.random.bernoulli(key, (DOCUMENTS_PER_ROW - 1) / max(length - 1, DOCUMENTS_PER_ROW), (rows, length))
    starts = starts.at[:, 0].set(True)
    index = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length))
    begun = jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
    return {'segment_ids': jnp.cumsum(starts, axis=1, dtype=jnp.int32), 'positions': index - begun}


def extrapolated_cost(config: Config) -> dict[str, float | None]:
    """Operations and bytes of the compiled step, every layer counted: XLA counts a loop's body once.

    Compiled without loops at one and at two layers; the difference is a layer, since layers are alike.
    """
    one, two = (program.cost(_without_loops(config, layers)) for layers in (1, 2))

    def at_depth(name):
        if one[name] is None or two[name] is None:
            return None
        return one[name] + (config.model.num_layers - 1) * (two[name] - one[name])

    return {name: at_depth(name) for name in one}


def _without_loops(config: Config, layers: int) -> Any:
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, num_layers=layers))
    state = jax.eval_shape(lambda: create_state(config, 0))
    batch = jax.eval_shape(functools.partial(random_batch, config), jax.random.key(0))
    hyper = jax.eval_shape(lambda: hyperparameters(config))
    step = jax.jit(program.unrolled(make_train_step(config)), donate_argnums=0)
    return step.lower(state, batch, hyper).compile()


def trace(step: Callable, state: Any, inputs: Callable[[int], tuple], folder: pathlib.Path) -> Any:
    """Writes a profiler trace of a few steps after two that warm up; returns the state after them."""
    for i in range(2):
        state, metrics = step(state, *inputs(i))
    arguments = [jax.block_until_ready(inputs(2 + i)) for i in range(PROFILED_STEPS)]
    jax.block_until_ready((state, metrics))
    with jax.profiler.trace(str(folder), create_perfetto_trace=True):
        for i in range(PROFILED_STEPS):
            with jax.profiler.StepTraceAnnotation('train', step_num=i):
                state, metrics = step(state, *arguments[i])
        jax.block_until_ready((state, metrics))
    return state


def _division(config: Config, devices: int) -> str:
    """How the devices share the work, for the name of a case; nothing for one device."""
    if devices == 1:
        return ''
    if config.parallel.wrapper == 'pmap':
        return f' {devices} devices pmap'
    sizes = mesh_lib.axis_sizes(config.parallel, devices)
    return f' {devices} devices ' + ' '.join(f'{name} {size}' for name, size in sizes.items() if size > 1)


def _file_name(name: str) -> str:
    return re.sub(r'[^A-Za-z0-9.]+', '-', name)
