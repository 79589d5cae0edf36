"""Models of every family equal transformers 5.23: logits, loss, gradients, and what they write."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from llm.inference.decode import Decoder
from llm.inference.sampling import SamplingParams
from llm.interop.huggingface import load
from llm.interop.huggingface.families import family_for
from llm.interop.huggingface.save import tensors
from llm.model import Transformer

NAMES = [
    *('gpt2', 'gpt2_untied', 'llama2', 'llama3', 'llama_linear', 'llama_yarn', 'mistral', 'qwen2', 'qwen3'),
    *('gemma', 'gemma2', 'gemma3'),
]
VARIED = ('gpt2', 'llama3', 'mistral', 'qwen3', 'gemma3')  # between them, all that decoding meets; the rest are slow
PROMPT = 9


@pytest.fixture(scope='module', params=NAMES)
def case(request, saved_model):
    folder = saved_model(request.param)
    config, params = load(folder)
    with np.load(folder / 'reference.npz') as reference:
        return config.model, params, dict(reference)


def test_logits(case):
    model, params, reference = case
    logits = jax.jit(Transformer(model).apply)({'params': params}, reference['tokens']).logits
    assert reference['logits'].std() > 0.5  # a comparison of near zeros would prove little
    npt.assert_allclose(logits, reference['logits'], rtol=0, atol=2e-4)


def test_loss_and_gradients(case):
    model, params, reference = case
    tokens = jnp.asarray(reference['tokens'])

    def loss(params):
        logits = Transformer(model).apply({'params': params}, tokens).logits[:, :-1]
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], axis=-1)
        return -chosen.mean()

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    npt.assert_allclose(value, reference['loss'], rtol=1e-4)
    theirs = {name.removeprefix('gradient/'): v for name, v in reference.items() if name.startswith('gradient/')}
    ours = dict(tensors(family_for(model), gradients))
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        error = np.linalg.norm(ours[name] - gradient) / (np.linalg.norm(gradient) + 1e-6)
        assert error < 1e-4, f'{name}: {error}'


@pytest.mark.parametrize(
    'case', [pytest.param(name, marks=() if name in VARIED else pytest.mark.slow) for name in NAMES], indirect=True
)
def test_greedy_continuation(case):
    model, params, reference = case
    prompt = reference['tokens'][0, :PROMPT].tolist()
    expected = reference['greedy'].tolist()
    greedy = SamplingParams(temperature=0.0)
    decoder = Decoder(Transformer(model), params, [prompt], [greedy], max_new_tokens=len(expected))
    written = [token for token, _ in decoder.advance(len(expected))[0]]
    assert len(set(expected)) > 5  # it is not one token again and again
    assert written == expected
