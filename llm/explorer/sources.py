"""Which function computes what the page shows, and its source."""

import inspect
import pathlib
from collections.abc import Callable
from typing import Any

import llm
from llm.analysis import lens
from llm.config import ModelConfig
from llm.inference import decode, sampling
from llm.model import attention_reference, masks, norms, positions, rope, taps
from llm.model.attention import Attention
from llm.model.block import Block
from llm.model.embedding import Embedding
from llm.model.feed_forward import FeedForward
from llm.model.kv_cache import LayerCache
from llm.model.transformer import Transformer
from llm.tokenizer import Tokenizer

POSITIONS = {
    'rope': rope.apply_rope,
    'learned': positions.LearnedPositions.__call__,
    'sinusoidal': positions.sinusoidal,
    'alibi': positions.alibi_slopes,
    'none': Transformer.__call__,
}


def stages(model: ModelConfig, tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    """Every stage of the page with its source, in the order of the journey."""
    functions: dict[str, Callable] = {
        'tokens': type(tokenizer).encode_batch,
        'embedding': Embedding.__call__,
        'positions': POSITIONS[model.position],
        'norm': norms.Norm.__call__,
        'queries_keys_values': Attention._projections,
        'scores': attention_reference.dot_product_attention,
        'mask': masks.make_mask,
        'softmax': attention_reference.dot_product_attention,
        'head_outputs': attention_reference.dot_product_attention,
        'attention_output': Attention.__call__,
        'residual': Block._add,
        'feed_forward': FeedForward.__call__,
        'final_norm': norms._normalised,
        'logits': Transformer.unembed,
        'sampler': sampling.filtered_logits,
        'draw': sampling.sample,
        'kv_cache': LayerCache.write,
        'decode_step': decode.next_logits,
        'lens': lens.logit_lens,
        'attribution': lens.direct_logit_attribution,
        'edit': taps.tap,
    }
    return {stage: describe(function) for stage, function in functions.items()}


def describe(function: Callable) -> dict[str, Any]:
    """Name, file, line and source of a function; file relative to the folder that holds the package."""
    function = inspect.unwrap(function)
    lines, start = inspect.getsourcelines(function)
    path = pathlib.Path(inspect.getsourcefile(function) or '')
    said = inspect.getdoc(function) or inspect.getdoc(_owner(function)) or ''
    return {
        'name': function.__qualname__,
        'file': path.relative_to(pathlib.Path(llm.__file__).parents[1]).as_posix(),
        'line': start,
        'source': inspect.cleandoc('\n' + ''.join(lines)),
        'says': said.split('\n')[0],
    }


def _owner(function):
    """The class that a method is of, for those that say nothing themselves."""
    name = function.__qualname__.rpartition('.')[0]
    return getattr(inspect.getmodule(function), name, None) if name else None
