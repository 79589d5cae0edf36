"""GPT-2 (Radford et al. 2019)."""

from typing import Any

from llm.config import ModelConfig
from llm.interop.huggingface.family import Family, theirs
from llm.interop.huggingface.fields import Fields
from llm.interop.huggingface.tensors import Row

ACTIVATIONS = {'gelu_new': 'gelu', 'gelu_pytorch_tanh': 'gelu', 'gelu': 'gelu_exact', 'relu': 'relu', 'relu2': 'relu2'}
BIASES = ('query', 'key', 'value', 'attention_output', 'feed_forward', 'norm')  # always all
BLOCK = 'transformer.h.{layer}.'


def _read(fields: Fields) -> dict[str, Any]:
    fields.expect('scale_attn_weights', True)
    fields.expect('scale_attn_by_inverse_layer_idx', False)
    fields.expect('add_cross_attention', False)
    return {
        'vocab_size': fields.size('vocab_size'),
        'context_length': fields.size('n_positions'),
        'num_layers': fields.size('n_layer'),
        'width': fields.size('n_embd'),
        'num_heads': fields.size('n_head'),
        'feed_forward_width': fields.size_or('n_inner', 4 * fields.size('n_embd')),
        'activation': fields.choose('activation_function', ACTIVATIONS),
        'position': 'learned',
        'norm': 'layernorm',
        'norm_epsilon': fields.get('layer_norm_epsilon'),
        'biases': list(BIASES),
        'tied_embeddings': fields.get('tie_word_embeddings'),
        'init_std': fields.get('initializer_range') or 0.02,
        'init_kernel': 'normal',
    }


def _write(model: ModelConfig) -> dict[str, Any]:
    return {
        'vocab_size': model.vocab_size,
        'n_positions': model.context_length,
        'n_layer': model.num_layers,
        'n_embd': model.width,
        'n_head': model.num_heads,
        'n_inner': model.hidden_width,
        'activation_function': theirs(ACTIVATIONS, model.activation),
        'layer_norm_epsilon': model.norm_epsilon,
        'tie_word_embeddings': model.tied_embeddings,
        'initializer_range': model.init_std,
    }


def _layer(ours: str, theirs: str, part: tuple[int, int] = (0, 1)) -> tuple[Row, Row]:
    """Its kernels are (in, out), as ours are."""
    return (
        Row(f'blocks/{ours}/kernel', f'{BLOCK}{theirs}.weight', part=part),
        Row(f'blocks/{ours}/bias', f'{BLOCK}{theirs}.bias', part=part),
    )


def _norm(ours: str, theirs: str) -> tuple[Row, Row]:
    return Row(f'{ours}/scale', f'{theirs}.weight'), Row(f'{ours}/bias', f'{theirs}.bias')


TABLE = (
    Row('embedding/table', 'transformer.wte.weight'),
    Row('positions/table', 'transformer.wpe.weight'),
    *_norm('blocks/attention_norm', f'{BLOCK}ln_1'),
    *_layer('attention/query', 'attn.c_attn', (0, 3)),
    *_layer('attention/key', 'attn.c_attn', (1, 3)),
    *_layer('attention/value', 'attn.c_attn', (2, 3)),
    *_layer('attention/output', 'attn.c_proj'),
    *_norm('blocks/feed_forward_norm', f'{BLOCK}ln_2'),
    *_layer('feed_forward/up', 'mlp.c_fc'),
    *_layer('feed_forward/down', 'mlp.c_proj'),
    *_norm('final_norm', 'transformer.ln_f'),
    Row('lm_head/kernel', 'lm_head.weight', transposed=True),
)
DEFAULTS = {
    'vocab_size': 50_257,
    'n_positions': 1024,
    'n_layer': 12,
    'n_embd': 768,
    'n_head': 12,
    'activation_function': 'gelu_new',
    'layer_norm_epsilon': 1e-5,
    'tie_word_embeddings': True,
}
BUFFERS = (r'(.*\.)?h\.\d+\.attn\.(masked_)?bias',)  # masks that files of before transformers 4.30 hold
GPT2 = Family('gpt2', 'GPT2LMHeadModel', 'transformer.', TABLE, _read, _write, DEFAULTS, BUFFERS)
