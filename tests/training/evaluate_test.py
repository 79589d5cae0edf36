"""Bits per byte as the design pins them, whatever the batch."""

import dataclasses
import itertools
import math

import jax
import numpy as np
import pytest

from llm.config import ParallelConfig
from llm.data.batches import held_out_windows
from llm.data.prepare import prepare
from llm.errors import UserError
from llm.model import Transformer
from llm.parallel import mesh as mesh_lib
from llm.training import evaluate_text
from llm.training.checkpoint import load_params
from llm.training.evaluate import evaluate_checkpoint
from llm.training.evaluate_text import TextEvaluator
from llm.workdir import Workdir


def test_every_token_counts_once_and_every_byte(finished, tiny):
    """Against a plain loop: each document by itself, window by window, in float64."""
    workdir = Workdir(finished[0])
    _, params = load_params(workdir)
    (store,) = prepare(tiny).held_out
    model, length = Transformer(tiny.model), tiny.data.sequence_length
    forward = jax.jit(lambda tokens: jax.nn.log_softmax(model.apply({'params': params}, tokens).logits))
    stream = np.asarray(store.tokens).astype(np.int32)
    nats = tokens = 0.0
    for start in range(0, len(stream) - 1, length):
        window = stream[start : start + length + 1]
        # Each document's part of the window is read alone.
        bounds = [0, *np.flatnonzero(window[:-1] == 1).tolist(), len(window) - 1]
        for first, last in itertools.pairwise(bounds):
            if last > first:
                part = np.zeros((1, length), np.int32)
                part[0, : last - first] = window[first:last]
                scores = np.asarray(forward(part))[0]
                for i in range(last - first):
                    target = window[first + i + 1]
                    if target != 1:  # BOS is not predicted
                        nats -= float(scores[i, target])
                        tokens += 1
    measured = evaluate_checkpoint(workdir)
    assert measured['tokens'] == tokens == store.num_tokens
    assert measured['bytes'] == store.num_bytes
    assert measured['loss'] == pytest.approx(nats / tokens, rel=1e-5)
    assert measured['perplexity'] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert measured['bits_per_byte'] == pytest.approx(nats / math.log(2) / store.num_bytes, rel=1e-5)


@pytest.mark.parametrize('batch_size', [1, 3, 64])
def test_the_size_of_a_batch_does_not_show(finished, batch_size):
    workdir = Workdir(finished[0])
    one, other = evaluate_checkpoint(workdir), evaluate_checkpoint(workdir, batch_size=batch_size)
    assert one['tokens'] == other['tokens'] and one['bytes'] == other['bytes']
    assert one['loss'] == pytest.approx(other['loss'], rel=1e-6)


def test_the_number_of_devices_does_not_show(finished, tiny):
    prepared, (_, params) = prepare(tiny), load_params(Workdir(finished[0]))
    results = []
    for devices in (1, 8):
        mesh = mesh_lib.make_mesh(ParallelConfig(), jax.devices()[:devices])
        evaluator = TextEvaluator(tiny, prepared.tokenizer, prepared.held_out, mesh)
        results.append(evaluator.measure(jax.device_put(params, mesh_lib.replicated(mesh))))
    assert results[0]['tokens'] == results[1]['tokens']
    assert results[0]['loss'] == pytest.approx(results[1]['loss'], rel=1e-6)


def test_without_document_masking_a_window_is_one_sequence(finished, tiny, monkeypatch):
    """The measured loss is that of batches that spell out one segment; of the documents apart it is another."""
    prepared, (_, params) = prepare(tiny), load_params(Workdir(finished[0]))
    mesh = mesh_lib.make_mesh(ParallelConfig(), jax.devices()[:1])

    def measure(document_masking):
        config = dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, document_masking=document_masking))
        return TextEvaluator(config, prepared.tokenizer, prepared.held_out, mesh).measure(params)

    def spelt_out(*args):
        for batch in held_out_windows(*args):
            steps = np.broadcast_to(np.arange(batch['inputs'].shape[1], dtype=np.int32), batch['inputs'].shape)
            yield batch | {'segment_ids': np.ones_like(batch['inputs']), 'positions': steps}

    plain, apart = measure(False), measure(True)
    monkeypatch.setattr(evaluate_text, 'held_out_windows', spelt_out)
    assert plain['loss'] == pytest.approx(measure(False)['loss'], rel=1e-6)
    assert plain['loss'] != pytest.approx(apart['loss'], rel=1e-6)
    assert (plain['tokens'], plain['bytes']) == (apart['tokens'], apart['bytes'])


def test_a_stride_gives_context_and_still_counts_each_token_once(finished):
    workdir = Workdir(finished[0])
    plain, overlapping = evaluate_checkpoint(workdir), evaluate_checkpoint(workdir, stride=8)
    assert overlapping['tokens'] == plain['tokens'] and overlapping['stride'] == 8
    assert overlapping['loss'] != plain['loss']
    with pytest.raises(UserError, match='--stride is 33'):
        evaluate_checkpoint(workdir, stride=33)


def test_the_command_repeats_what_the_run_said(finished):
    path, summary = finished
    measured = evaluate_checkpoint(Workdir(path))
    assert measured['params_sha256'] == summary['params_sha256'] and measured['step'] == 12
    assert measured['loss'] == pytest.approx(summary['held_out']['loss'], rel=1e-6)
