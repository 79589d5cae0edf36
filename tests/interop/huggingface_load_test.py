"""What is read of a model's files, and how much memory that takes."""

import gc
import json
import tracemalloc

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from llm.interop.huggingface import load


def rewrite(source, target, change, **fields):
    """A copy of a saved model with other tensors, and other fields of config.json."""
    target.mkdir()
    tensors = load_file(source / 'model.safetensors')
    change(tensors)
    save_file(tensors, target / 'model.safetensors', metadata={'format': 'pt'})
    config = json.loads((source / 'config.json').read_text())
    (target / 'config.json').write_text(json.dumps(config | fields))
    return target


def test_the_host_holds_one_stacked_parameter_beside_the_model(saved_model, tmp_path):
    """numpy tells tracemalloc what it holds, and devices do not: all that is counted is beyond the model."""

    def enlarge(tensors):
        tokens, width = 100_000, tensors['model.embed_tokens.weight'].shape[1]
        values = np.full((tokens, width), 0.25, np.float32)
        tensors |= {'model.embed_tokens.weight': values, 'lm_head.weight': values}
        for name in list(tensors):
            if '.mlp.' in name:
                wide = 50_000
                tensors[name] = np.full((width, wide) if 'down' in name else (wide, width), 0.25, np.float32)

    fields = {'vocab_size': 100_000, 'intermediate_size': 50_000, 'tie_word_embeddings': False}
    folder = rewrite(saved_model('llama_linear'), tmp_path / 'large', enlarge, **fields)
    load(saved_model('llama_linear'))  # what is made once, is
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        _, params = load(folder)
        _, beyond = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(params)]
    assert sizes.count(max(sizes)) == 5  # several that are as large as the largest
    assert beyond < 1.3 * max(sizes)
