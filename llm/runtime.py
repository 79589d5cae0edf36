"""Choices that change the last bits of a result: made at a run's first start, stored with it, kept when it resumes."""

import dataclasses
import os
import re
import time

from absl import logging

from llm.config import Config, Distillation, InitFromConfig, ModelConfig
from llm.environment import code_version, prepare_process, processors
from llm.errors import UserError
from llm.workdir import Workdir

_PRODUCT_ROWS = 2048
GAIN = 1.2  # bfloat16 is chosen where it multiplies this much faster than float32


def prepare_host(workdir: Workdir | None = None, threads: int | None = None) -> None:
    """Fixes the number of host threads, keeps freed memory and switches the cache of compiled programs on.

    XLA reads the thread count when jax is first imported, and how a sum is cut over threads shows in its last bits; so
    a run that resumes takes the number it was started with.

    Args:
        workdir: the run's; None fixes as many threads as there are processors.
        threads: a number to fix instead, whatever the run was started with.
    """
    stored = workdir.runtime() if workdir is not None else {}
    prepare_process(threads or stored.get('host_threads'))
    import jax

    from llm import cache

    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        jax.config.update('jax_compilation_cache_dir', str(cache.folder('compiled', 'xla')))
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def choose(config: Config, workdir: Workdir, data: str) -> dict:
    """The choices of a run: those stored with it, or at its first start those for this machine, to be stored then.

    Args:
        config: as the user gave it.
        workdir: the run's.
        data: digest of its token stores.

    Raises:
        UserError: if the run was started on something else than what is here, or what it asks for is not here.
    """
    import jax

    here = {
        'device_kind': jax.devices()[0].device_kind,
        'host_threads': int(os.environ.get('NPROC', processors())),
        'xla_flags': xla_flags(),
    }
    stored = workdir.runtime()
    if not stored:
        versions = {'jax': jax.__version__, 'code': code_version()}
        model = resolve(config).model
        chosen = {'compute_dtype': model.compute_dtype, 'attention_backend': model.attention_backend}
        if config.init_from.workdir:
            chosen['init_from_step'] = _source_step(config.init_from)
        if isinstance(config.objective, Distillation):
            chosen['teacher_step'], chosen['teacher'] = _teacher(config)
        return here | {'data': data} | chosen | versions
    fork = f'fork it into a new workdir with --init-from.workdir {workdir.path} --init-from.continue-step'
    for name, value in here.items():
        if stored[name] != value:
            raise UserError(
                f'{workdir.path} was started with {name} {stored[name]!r} and here it is {value!r}, which changes the '
                f'last bits; resume it there, or {fork} --init-from.optimizer-state'
            )
    if stored.get('data', data) != data:
        raise UserError(f'the corpora of {workdir.path} have changed since it was started; restore them, or {fork}')
    if 'teacher' in stored and _teacher(resolve(config, stored))[1] != stored['teacher']:
        raise UserError(
            f'the teacher {config.objective.teacher} has changed at step {stored["teacher_step"]} since '
            f'{workdir.path} was started; restore it, or use another workdir'
        )
    for name, value in (('jax', jax.__version__), ('code', code_version())):
        if stored.get(name, value) != value:
            logging.warning(
                '%s was started with %s %s; with %s it goes on, but not to the bit',
                *(workdir.path, name, stored.get(name), value),
            )
    check(resolve(config, stored))
    return stored


def resolve(config: Config, choices: dict | None = None) -> Config:
    """The config with 'auto' replaced by what was chosen, or without choices by what is best here.

    Raises:
        UserError: if there are no choices and the attention that the config asks for by name is not available here.
    """
    model = config.model
    if model.compute_dtype == 'auto':
        model = dataclasses.replace(model, compute_dtype=(choices or {}).get('compute_dtype') or compute_dtype(config))
    if model.attention_backend == 'auto' and choices:  # a run of before there was a choice had the reference
        chosen = choices.get('attention_backend', 'reference') if _whole_and_causal(config) else 'reference'
        model = dataclasses.replace(model, attention_backend=chosen)
    if not choices:
        model = dataclasses.replace(model, attention_backend=_attention_backend(config, model))
    init_from = config.init_from
    if init_from.workdir and init_from.step is None and choices:
        init_from = dataclasses.replace(init_from, step=choices.get('init_from_step'))
    objective = config.objective
    if isinstance(objective, Distillation) and objective.teacher_step is None and choices:
        objective = dataclasses.replace(objective, teacher_step=choices.get('teacher_step'))
    return dataclasses.replace(config, model=model, init_from=init_from, objective=objective)


def _source_step(init_from: InitFromConfig) -> int:
    """The checkpoint that a run starts from: the newest now, which need not be the newest when the run resumes."""
    from llm.training.checkpoint import Checkpoints, checked_step

    source = Workdir.open(init_from.workdir)
    return checked_step(source, Checkpoints(source.checkpoints), init_from.step)


def _teacher(config: Config) -> tuple[int, str]:
    """The teacher's checkpoint and a sum over it, which must stay as they are while the student learns."""
    from llm.training.teacher import teacher_checkpoint

    return teacher_checkpoint(config.objective)


def check(config: Config) -> None:
    """Refuses, before any work is done, a config that asks by name for what this machine does not have.

    Raises:
        UserError: if the attention it asks for is not available here.
    """
    if config.model.attention_backend != 'auto':
        resolve(config)


def _whole_and_causal(config: Config) -> bool:
    """Whether attention is of the kind that backends have: over whole rows, each token seeing those before it."""
    return config.parallel.context == 1 and config.reading == 'causal'


def _attention_backend(config: Config, model: ModelConfig) -> str:
    """The attention that was asked for, or for 'auto' the best that a run which reads like this can have here."""
    import jax

    from llm.model import attention_backends

    name, platform, context = model.attention_backend, jax.default_backend(), config.parallel.context
    best = attention_backends.choose(model, platform) if _whole_and_causal(config) else 'reference'
    if name == 'auto':
        return best
    if name != 'reference' and config.reading != 'causal':
        raise UserError(
            f'model.attention_backend {name!r} lets a token see those before it alone, and objective '
            f'{config.objective.kind} more; choose auto or reference'
        )
    if name != best == 'reference' and context > 1:
        raise UserError(
            f'model.attention_backend {name!r} reads whole rows and parallel.context {context} cuts them; choose '
            'reference, or parallel.context 1'
        )
    if reason := attention_backends.unavailable(name, model, platform):
        raise UserError(
            f'model.attention_backend {name!r} is not available: {reason}; choose auto (which is {best} here)'
        )
    return name


def stored_config(workdir: Workdir) -> Config:
    """A run's config as it ran: what was stored, with the choices that were made at its first start."""
    return resolve(workdir.config(), workdir.runtime())


def usable_config(workdir: Workdir) -> Config:
    """A run's config as it can run here: measuring or generating may be on another platform than training was.

    Where the attention that the run was trained with is not available, the best there is takes its place, with a
    warning: it computes the same up to rounding.
    """
    import jax

    from llm.model import attention_backends

    config = stored_config(workdir)
    model, platform = config.model, jax.default_backend()
    reason = attention_backends.unavailable(model.attention_backend, model, platform)
    if reason is None:
        return config
    best = attention_backends.choose(model, platform)
    logging.warning(
        '%s was trained with attention %s, which is not available here: %s; %s takes its place and differs by rounding',
        *(workdir.path, model.attention_backend, reason, best),
    )
    return dataclasses.replace(config, model=dataclasses.replace(model, attention_backend=best))


def compute_dtype(config: Config) -> str:
    """What 'auto' means here: bfloat16 on accelerators, and on a CPU that is measured to multiply it faster."""
    if config.model.compute_dtype != 'auto':
        return config.model.compute_dtype
    import jax

    if jax.default_backend() != 'cpu':
        return 'bfloat16'
    seconds = {
        dtype: product_seconds(dataclasses.replace(config.model, compute_dtype=dtype))
        for dtype in ('float32', 'bfloat16')
    }
    return 'bfloat16' if seconds['float32'] > GAIN * seconds['bfloat16'] else 'float32'


def product_flops(model: ModelConfig) -> float:
    """Of what `product_seconds` times."""
    return 3 * 2 * _PRODUCT_ROWS * model.width * (model.hidden_width or model.width)


def product_seconds(model: ModelConfig) -> float:
    """The best of five times of one feed-forward product, there and back; `compute_dtype` 'auto' is float32."""
    import jax
    import jax.numpy as jnp

    from llm.model.linear import matmul

    if model.compute_dtype == 'auto':
        model = dataclasses.replace(model, compute_dtype='float32')
    wide = model.hidden_width or model.width  # without a feed-forward network, attention's product
    x, kernel = jnp.ones((_PRODUCT_ROWS, model.width)), jnp.ones((model.width, wide))
    product = jax.jit(lambda x, kernel: jax.vjp(lambda *args: matmul(*args, model), x, kernel)[1](x @ kernel))
    times = []
    for _ in range(6):
        start = time.perf_counter()
        jax.block_until_ready(product(x, kernel))
        times.append(time.perf_counter() - start)
    return min(times[1:])


def xla_flags() -> str:
    """The user's flags for XLA, without the number of virtual devices: that may change between starts."""
    flags = re.sub(r'--xla_force_host_platform_device_count=\d+', '', os.environ.get('XLA_FLAGS', ''))
    return ' '.join(flags.split())
