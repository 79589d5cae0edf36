"""What probes find at each depth, against their controls, and what neurons fire on and promote.

The documents are dealt into folds; the tokens of each are scored by probes that were fitted to the other folds. So
every accuracy is over documents that neither the model nor the probe has learned from, and its interval is over
documents, because tokens of one file go together.
"""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import tqdm

from experiments.probing import neurons
from experiments.probing import windows as rows_of
from experiments.probing.labels import NONE, TASKS
from llm.analysis import lens, memories, probes, statistics
from llm.config import ModelConfig
from llm.errors import UserError
from llm.model.transformer import Transformer
from llm.tokenizer import open_workdir
from llm.workdir import Workdir

BATCH = 16  # rows read at once
ROWS = 600  # at most
TRAINED, UNTRAINED = 'trained', 'untrained'


class Settings(NamedTuple):
    """How much is measured.

    Attributes:
        tokens: of each task, that probes learn from and are tested on together.
        folds: that the documents are dealt into.
        seeds: control tasks and untrained models.
        neurons: of each layer that the page shows, half of them drawn at random.
        contexts: of each neuron.
    """

    tokens: int = 12_000
    folds: int = 3
    seeds: int = 1
    neurons: int = 6
    contexts: int = 4


def measure(workdir: Workdir, step: int | None, settings: Settings) -> dict[str, Any]:
    """Measures a checkpoint.

    Args:
        workdir: the run's.
        step: which checkpoint; None is the newest.
        settings: how much.

    Raises:
        UserError: if there is no such checkpoint, or its held-out documents are not Python.
    """
    from llm import runtime
    from llm.inference.reading import require_causal
    from llm.training.checkpoint import load_params

    for name, least in (('tokens', 500), ('folds', 2), ('seeds', 1), ('neurons', 2), ('contexts', 1)):
        if getattr(settings, name) < least:
            raise UserError(f'--{name} is {getattr(settings, name)}; it must be at least {least}')
    config, tokenizer = runtime.usable_config(workdir), open_workdir(workdir.path)
    require_causal(config, workdir.path, 'this experiment')
    step, params = load_params(workdir, step)
    model = config.model
    length = min(config.data.sequence_length, model.context_length)
    windows = rows_of.held_out(config, tokenizer, length, ROWS)
    folds = deal(windows, settings.folds)
    wanted = sample(windows, settings.tokens)
    triggers = None if not model.hidden_width else memories.Triggers(settings.contexts)
    kept = np.unique(np.concatenate(list(wanted.values())))
    streams = {TRAINED: [read(params, model, windows, kept, triggers)]}
    streams[UNTRAINED] = [read(untrained(model, seed), model, windows, kept) for seed in range(settings.seeds)]
    return {
        'workdir': str(workdir.path),
        'step': step,
        'parameters': workdir.summary().get('parameters'),
        'bits_per_byte': workdir.summary().get('held_out', {}).get('bits_per_byte'),
        'documents': len(windows.documents),
        'rows': len(windows.tokens),
        'settings': settings._asdict(),
        'depths': ['embedding', *(f'layer {i}' for i in range(model.num_layers))],
        'tasks': probe_all(streams, windows, wanted, kept, folds, settings),
        'memories': None
        if triggers is None
        else neurons.measure(params, model, tokenizer, windows, triggers, settings.neurons),
    }


def deal(windows: rows_of.Windows, folds: int) -> np.ndarray:
    """Which fold each document is in: largest first, each to the fold that has least."""
    sizes = np.bincount(windows.document, windows.real.sum(axis=1), minlength=len(windows.documents))
    fold, load = np.zeros(len(sizes), np.int64), np.zeros(folds)
    for document in np.argsort(-sizes, kind='stable'):
        fold[document] = load.argmin()
        load[fold[document]] += sizes[document]
    return fold


def sample(windows: rows_of.Windows, most: int) -> dict[str, np.ndarray]:
    """For each task, which places of the flattened rows are used: those with a label, drawn at random."""
    draw = np.random.default_rng(0)
    found = {}
    for task, labels in windows.labels.items():
        places = np.flatnonzero((labels != NONE) & windows.real)
        found[task] = np.sort(draw.choice(places, min(most, len(places)), replace=False))
    return found


def read(
    params: Any,
    config: ModelConfig,
    windows: rows_of.Windows,
    kept: np.ndarray,
    triggers: memories.Triggers | None = None,
) -> np.ndarray:
    """The residual stream before the first layer and after each, at some places: (depths, kept, width).

    Args:
        params: the model's.
        config: the model's.
        windows: what it reads.
        kept: places of the flattened rows, sorted.
        triggers: is given the neurons, if there is one.
    """
    sites = ('residual_before', 'residual_after', *(('neurons',) if triggers is not None else ()))
    length = windows.tokens.shape[1]
    found = []
    for at in tqdm.tqdm(range(0, len(windows.tokens), BATCH), 'reading', unit='batch', file=sys.stderr, disable=None):
        tokens, real = (x[at : at + BATCH] for x in (windows.tokens, windows.real))
        tokens = np.pad(tokens, ((0, BATCH - len(tokens)), (0, 0)))  # one shape, so one program
        activations = lens.run(params, config, tokens, sites, with_logits=False).activations
        stream = np.asarray(lens.residuals(activations), np.float32)
        first, last = np.searchsorted(kept, (at * length, (at + len(real)) * length))
        found.append(stream.reshape(len(stream), -1, stream.shape[-1])[:, kept[first:last] - at * length])
        if triggers is not None:
            triggers.add(activations['neurons'][:, : len(real)], real)
    return np.concatenate(found, axis=1)


def untrained(config: ModelConfig, seed: int) -> Any:
    """The parameters of the same model before its first step: what its architecture alone carries to each place."""
    model = Transformer(dataclasses.replace(config, attention_backend='reference'))
    return jax.jit(lambda key: model.init(key, jnp.zeros((1, 8), jnp.int32))['params'])(jax.random.key(seed))


def probe_all(
    streams: dict[str, list[np.ndarray]],
    windows: rows_of.Windows,
    wanted: dict[str, np.ndarray],
    kept: np.ndarray,
    folds: np.ndarray,
    settings: Settings,
) -> dict[str, Any]:
    """For each task and depth: accuracy, of the control task and of an untrained model too, and what is simpler."""
    length = windows.tokens.shape[1]
    depths = len(streams[TRAINED][0])
    fits = len(TASKS) * depths * settings.folds * (1 + 2 * settings.seeds)
    results = {}
    with tqdm.tqdm(total=fits, desc='probes', unit='fit', file=sys.stderr, disable=None) as progress:
        for task, classes in TASKS.items():
            places = wanted[task]
            data = _Task(
                labels=windows.labels[task].ravel()[places],
                kinds=windows.tokens.ravel()[places],
                document=windows.document[places // length],
                fold=folds[windows.document[places // length]],
                classes=len(classes),
            )
            score = functools.partial(_scored, data, np.searchsorted(kept, places), progress)
            trained = score(streams[TRAINED], [data.labels])
            controls = [
                probes.control_labels(data.kinds, data.labels, data.classes, seed) for seed in range(settings.seeds)
            ]
            control = score(streams[TRAINED], controls)
            bare = score(streams[UNTRAINED], [data.labels])
            results[task] = _summary(data, trained, control, bare) | {'classes': list(classes)}
    return results


class _Task(NamedTuple):
    """The tokens of one task, all arrays of one number a token.

    Attributes:
        labels: real ones.
        kinds: token ids.
        document: which one.
        fold: which the document is in.
        classes: how many labels there are.
    """

    labels: np.ndarray
    kinds: np.ndarray
    document: np.ndarray
    fold: np.ndarray
    classes: int


def _scored(
    data: _Task, places, progress, streams: Sequence[np.ndarray], labellings: Sequence[np.ndarray]
) -> np.ndarray:
    """Whether each token's label was found, at each depth, averaged over streams and labellings."""
    total = np.zeros((len(streams[0]), len(places)))
    for stream in streams:
        for labels in labellings:
            for depth, activations in enumerate(stream):
                x = activations[places]
                for fold in np.unique(data.fold):
                    here = data.fold == fold
                    probe = probes.fit(x[~here], labels[~here], data.classes)
                    total[depth, here] += probe.predict(x[here]) == labels[here]
                    progress.update()
    return total / (len(streams) * len(labellings))


def _summary(data: _Task, trained, control, bare) -> dict[str, Any]:
    commonest, by_token = (np.zeros(len(data.labels)) for _ in range(2))
    for fold in np.unique(data.fold):
        here = data.fold == fold
        commonest[here] = data.labels[here] == np.bincount(data.labels[~here]).argmax()
        by_token[here] = probes.by_kind(data.kinds[~here], data.labels[~here], data.kinds[here]) == data.labels[here]
    rate = functools.partial(over_documents, document=data.document)
    best = int(trained.mean(axis=1).argmax())
    return {
        'tokens': len(data.labels),
        'shares': (np.bincount(data.labels, minlength=data.classes) / len(data.labels)).tolist(),
        'commonest': rate(commonest),
        'by_token': rate(by_token),
        'accuracy': [rate(x) for x in trained],
        'control': [rate(x) for x in control],
        'selectivity': [rate(x - y) for x, y in zip(trained, control)],
        'untrained': [rate(x) for x in bare],
        'best_depth': best,
        'best_over_embedding': rate(trained[best] - trained[0]),
        'best_over_token': rate(trained[best] - by_token),
        'best_over_untrained': rate(trained[best] - bare[best]),
    }


def over_documents(values: np.ndarray, document: np.ndarray) -> dict[str, float | None]:
    """A mean over tokens with an interval over documents (Student's t on the linearised ratio)."""
    names = np.unique(document)
    sums = [float(values[document == name].sum()) for name in names]
    counts = [int((document == name).sum()) for name in names]
    mean, error = float(np.mean(values)), statistics.ratio_error(sums, counts)
    if error is None:
        return {'mean': mean, 'low': None, 'high': None}
    half = float(scipy.special.stdtrit(len(names) - 1, (1 + statistics.CONFIDENCE) / 2)) * error
    return {'mean': mean, 'low': mean - half, 'high': mean + half}
