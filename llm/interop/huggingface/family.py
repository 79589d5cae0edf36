"""What a family is, and what most of them share: the names and fields of Llama's line."""

from collections.abc import Callable
from typing import Any, NamedTuple

from llm.config import ModelConfig
from llm.interop.huggingface.fields import Fields
from llm.interop.huggingface.rope import write_rope
from llm.interop.huggingface.tensors import Row


class Family(NamedTuple):
    """An architecture of transformers.

    Attributes:
        model_type: its name in config.json.
        architecture: its class.
        prefix: what names of tensors begin with, except in files of a model saved without its head.
        table: where each parameter is.
        read: config.json to fields of `ModelConfig`.
        write: a `ModelConfig` to config.json; what the family cannot say is left unsaid.
        defaults: what fields of config.json are where they are absent.
        ignored: regular expressions of tensors that are no parameters.
    """

    model_type: str
    architecture: str
    prefix: str
    table: tuple[Row, ...]
    read: Callable[[Fields], dict[str, Any]]
    write: Callable[[ModelConfig], dict[str, Any]]
    defaults: dict[str, Any]
    ignored: tuple[str, ...] = (r'.*\.rotary_emb\.inv_freq',)


BLOCK = 'model.layers.{layer}.'
GATED = {  # what their name of an activation is here
    'silu': 'swiglu',
    'swish': 'swiglu',
    'gelu_pytorch_tanh': 'geglu',
    'gelu_new': 'geglu',
    'gelu': 'geglu_exact',
}
WINDOWED, FULL = 'sliding_attention', 'full_attention'


def projections(*sites: tuple[str, str]) -> tuple[Row, ...]:
    """Kernel and bias of linear layers, given as (ours, theirs) within a block."""
    rows = []
    for ours, theirs in sites:
        rows.append(Row(f'blocks/{ours}/kernel', f'{BLOCK}{theirs}.weight', transposed=True))
        rows.append(Row(f'blocks/{ours}/bias', f'{BLOCK}{theirs}.bias'))
    return tuple(rows)


def scales(*sites: tuple[str, str]) -> tuple[Row, ...]:
    """Scales of norms, given as (ours, theirs) within a block."""
    return tuple(Row(f'blocks/{ours}/scale', f'{BLOCK}{theirs}.weight') for ours, theirs in sites)


ENDS = (
    Row('embedding/table', 'model.embed_tokens.weight'),
    Row('final_norm/scale', 'model.norm.weight'),
    Row('lm_head/kernel', 'lm_head.weight', transposed=True),
)
PROJECTIONS = projections(
    ('attention/query', 'self_attn.q_proj'),
    ('attention/key', 'self_attn.k_proj'),
    ('attention/value', 'self_attn.v_proj'),
    ('attention/output', 'self_attn.o_proj'),
    ('feed_forward/gate', 'mlp.gate_proj'),
    ('feed_forward/up', 'mlp.up_proj'),
    ('feed_forward/down', 'mlp.down_proj'),
)
PRE_NORMS = scales(('attention_norm', 'input_layernorm'), ('feed_forward_norm', 'post_attention_layernorm'))
QK_NORMS = scales(('attention/query_norm', 'self_attn.q_norm'), ('attention/key_norm', 'self_attn.k_norm'))


DEFAULTS = {  # alike in all of Llama's line
    'num_hidden_layers': 32,
    'hidden_size': 4096,
    'num_attention_heads': 32,
    'hidden_act': 'silu',
    'rms_norm_eps': 1e-6,
    'rope_theta': 10_000.0,
    'sliding_window': 4096,
    'tie_word_embeddings': False,
    'initializer_range': 0.02,
}


def read_decoder(fields: Fields) -> dict[str, Any]:
    """What config.json says alike in all of Llama's line, but for RoPE."""
    heads = fields.size('num_attention_heads')
    return {
        'vocab_size': fields.size('vocab_size'),
        'context_length': fields.size('max_position_embeddings'),
        'num_layers': fields.size('num_hidden_layers'),
        'width': fields.size('hidden_size'),
        'num_heads': heads,
        'num_kv_heads': fields.size_or('num_key_value_heads', heads),
        'head_dim': fields.size_or('head_dim', None),
        'feed_forward_width': fields.size('intermediate_size'),
        'norm_epsilon': fields.get('rms_norm_eps'),
        'tied_embeddings': fields.get('tie_word_embeddings'),
        'init_std': fields.get('initializer_range') or 0.02,
    }


def write_decoder(model: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_decoder` and, for layers that are alike, of `read_rope`."""
    return {
        'vocab_size': model.vocab_size,
        'max_position_embeddings': model.context_length,
        'num_hidden_layers': model.num_layers,
        'hidden_size': model.width,
        'num_attention_heads': model.num_heads,
        'num_key_value_heads': model.kv_heads,
        'head_dim': model.key_size,
        'intermediate_size': model.hidden_width,
        'rms_norm_eps': model.norm_epsilon,
        'tie_word_embeddings': model.tied_embeddings,
        'initializer_range': model.init_std,
        **write_rope(model),
    }


def theirs(choices: dict[str, str], ours: str) -> str:
    """Their first name of what is called `ours` here, or of something else: then reading it back shows that it is."""
    return next((name for name, word in choices.items() if word == ours), next(iter(choices)))


def pattern(layers: list[Any]) -> tuple[Any, ...]:
    """The shortest beginning that, repeated, gives all layers."""
    for length in range(1, len(layers) + 1):
        if all(layers[i] == layers[i % length] for i in range(len(layers))):
            return tuple(layers[:length])
    return ()


def read_windows(fields: Fields, kinds: list[str], window: int | None) -> dict[str, Any]:
    """The windows of layers of two kinds.

    Args:
        fields: of config.json; its `layer_types` come before `kinds`.
        kinds: of each layer, where the file does not say.
        window: of the layers with one.
    """
    kinds = fields.get('layer_types') or kinds
    if not isinstance(kinds, list):
        raise fields.error(f'layer_types is {kinds!r}; it must be a list')
    if strange := [kind for kind in kinds if kind not in (WINDOWED, FULL)]:
        raise fields.error(f'layer_types has {strange[0]!r}; only {WINDOWED} and {FULL} can be read')
    if len(kinds) != fields.size('num_hidden_layers'):
        raise fields.error(f'layer_types has {len(kinds)} entries for {fields.size("num_hidden_layers")} layers')
    return {'windows': list(pattern([window if kind == WINDOWED else None for kind in kinds]))}


def write_windows(model: ModelConfig) -> dict[str, Any]:
    """Which layers have a window, and how wide it is."""
    windows = model.layer_windows
    return {
        'sliding_window': next((window for window in windows if window is not None), None),
        'layer_types': [FULL if window is None else WINDOWED for window in windows],
    }
