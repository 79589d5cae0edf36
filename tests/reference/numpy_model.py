"""The transformer written a second time, in float64 NumPy, from the papers: what `llm.model` is compared with.

Nothing here is shared with `llm` but the meaning of the config's fields, and nothing is fast. Shapes are written with
B rows, T tokens, D width, H query heads, G key/value heads, K head size, F hidden width, V vocabulary.

Parameters are a nested dictionary; everything under `blocks` has a leading layer axis:

    embedding/table (V, D) · embedding_norm · positions/table (context_length, D) · final_norm · lm_head (D, V)
    blocks/attention_norm · blocks/attention/{query, key, value, output} · blocks/attention/{query_norm, key_norm}
    blocks/feed_forward_norm · blocks/feed_forward/{gate, up, down} · with norm_placement 'both' also
    blocks/{attention_post_norm, feed_forward_post_norm}

A projection holds `kernel` (in, out) and perhaps `bias`; a normalisation holds `scale` and perhaps `bias`.
"""

import math

import numpy as np

# ------------------------------------------------------------------------------------------------------------- layers


def softmax(x):
    """Over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def log_sum_exp(x):
    """Over the last axis."""
    m = x.max(axis=-1)
    return m + np.log(np.exp(x - m[..., None]).sum(axis=-1))


def rms_norm(x, scale, epsilon, bias=0.0):
    """Zhang & Sennrich 2019: x / sqrt(mean(x^2) + epsilon), times a scale per feature."""
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon) * scale + bias


def layer_norm(x, scale, epsilon, bias=0.0):
    """Ba et al. 2016: mean 0 and (biased) variance 1 over the features, then a scale and a bias per feature."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon) * scale + bias


def gelu(x):
    """The tanh form of Hendrycks & Gimpel 2016, as in GPT-2."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_exact(x):
    """x times the probability that a standard normal number is below x."""
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def silu(x):
    return x / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


def rope(x, positions, base, frequencies=None):
    """Su et al. 2021 with the halves paired: features i and i + K/2 turn by position * base^(-2i/K).

    x is (B, T, heads, K), positions (B, T); frequencies (K/2) may be given in place of those of the base.
    """
    half = x.shape[-1] // 2
    frequencies = base ** (-2 * np.arange(half) / x.shape[-1]) if frequencies is None else np.array(frequencies)
    angles = positions[:, :, None, None] * frequencies
    first, second = x[..., :half], x[..., half:]
    turned = first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)
    return np.concatenate(turned, axis=-1)


def scaled_frequency(pair, config):
    """The frequency of one pair of features in a context that was made longer.

    All are divided by the factor (Chen et al. 2023), or only the slow ones: the fast ones stay, and those in between
    are mixed by how many turns they make in the original context (Llama 3.1) or by their number (Peng et al. 2023).
    """
    frequency = config.rope_base ** (-2 * pair / config.key_size)
    if config.rope_scaling == 'none':
        return frequency
    if config.rope_scaling == 'linear':
        return frequency / config.rope_factor
    context, slow, fast = config.rope_original_context, config.rope_slow_turns, config.rope_fast_turns
    if config.rope_scaling == 'llama3':
        turns = context * frequency / (2 * math.pi)
        if turns > fast:
            return frequency
        if turns < slow:
            return frequency / config.rope_factor
        smooth = (turns - slow) / (fast - slow)
        return (1 - smooth) * frequency / config.rope_factor + smooth * frequency
    # YaRN: the pair that makes n turns in the context, solved for its number
    begin, end = (
        config.key_size * math.log(context / (2 * math.pi * n)) / (2 * math.log(config.rope_base)) for n in (fast, slow)
    )
    if config.rope_whole_pairs:
        begin, end = math.floor(begin), math.ceil(end)
    begin, end = max(begin, 0), min(end, config.key_size - 1)
    ramp = min(max((pair - begin) / (end - begin), 0), 1)
    return (1 - ramp) * frequency + ramp * frequency / config.rope_factor


def rope_of(x, positions, config, local):
    """What a layer does to its queries or keys; a local layer has a base of its own and no scaling."""
    if local:
        return rope(x, positions, config.local_rope_base)
    turned = rope(x, positions, None, [scaled_frequency(pair, config) for pair in range(config.key_size // 2)])
    if config.rope_scaling == 'yarn':
        own = 0.1 * math.log(config.rope_factor) + 1
        turned = turned * (own if config.rope_amplitude is None else config.rope_amplitude)
    return turned


def sinusoids(positions, width):
    """Vaswani et al. 2017, section 3.5: sin in the even columns, cos in the odd ones. positions (B, T) to (B, T, D)."""
    columns = np.arange(width)
    angles = positions[..., None] / 10_000 ** (2 * (columns // 2) / width)
    return np.where(columns % 2 == 0, np.sin(angles), np.cos(angles))


def alibi_slopes(heads):
    """Press et al. 2022: 2^(-8/n), 2^(-16/n), … for n a power of two.

    Otherwise the slopes of the power of two below, then every other slope of the power of two above (their code).
    """
    below = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / below) for i in range(below)]
    between = [2 ** (-8 * (i + 1) / (2 * below)) for i in range(0, 2 * below, 2)]
    return np.array(slopes + between[: heads - below])


def attention_mask(segment_ids, window):
    """(B, T, T), true where query i may see key j: j <= i, in the same document, among the last `window` tokens."""
    query, key = np.arange(segment_ids.shape[1])[:, None], np.arange(segment_ids.shape[1])[None, :]
    near = (key <= query) & (query - key < (window or np.inf))
    return near & (segment_ids[:, :, None] == segment_ids[:, None, :])


def attention(q, k, v, mask, scale, softcap=None, bias=0.0):
    """softmax(cap(q k' scale) + bias) v, where query head h reads key/value head h // (H / G).

    q (B, T, H, K), k and v (B, T, G, K), mask (B, T, T), bias broadcast to (B, H, T, T); returns (B, T, H, K).
    """
    group = q.shape[2] // k.shape[2]
    k, v = np.repeat(k, group, axis=2), np.repeat(v, group, axis=2)
    scores = np.einsum('bihk,bjhk->bhij', q, k) * scale
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    weights = softmax(np.where(mask[:, None], scores + bias, -np.inf))
    return np.einsum('bhij,bjhk->bihk', weights, v)


# -------------------------------------------------------------------------------------------------------------- model


def linear(x, params):
    return x @ params['kernel'] + params.get('bias', 0.0)


def normalise(x, params, config):
    scale = params['scale'] + (1.0 if config.norm_unit_offset else 0.0)
    kind = {'rmsnorm': rms_norm, 'layernorm': layer_norm}[config.norm]
    return kind(x, scale, config.norm_epsilon, params.get('bias', 0.0))


def self_attention(x, params, config, segment_ids, positions, window):
    rows, length, _ = x.shape
    q = linear(x, params['query']).reshape(rows, length, config.num_heads, config.key_size)
    k = linear(x, params['key']).reshape(rows, length, config.kv_heads, config.key_size)
    v = linear(x, params['value']).reshape(rows, length, config.kv_heads, config.key_size)
    if config.qk_norm:
        offset = 1.0 if config.norm_unit_offset else 0.0
        q = rms_norm(q, params['query_norm']['scale'] + offset, config.norm_epsilon)
        k = rms_norm(k, params['key_norm']['scale'] + offset, config.norm_epsilon)
    if config.position == 'rope':
        local = window is not None and config.local_rope_base is not None
        q, k = (rope_of(x, positions, config, local) for x in (q, k))
    bias = 0.0
    if config.position == 'alibi':
        distance = positions[:, None, :, None] - positions[:, None, None, :]
        bias = -alibi_slopes(config.num_heads)[:, None, None] * distance
    mup = config.parametrization == 'mup'  # Yang et al. 2022: 1 / head_dim beyond the base width, if heads grow
    times_base = config.width / config.base_width if mup and config.head_dim is None else 1.0
    at_base = config.attention_scale or 1 / math.sqrt(config.key_size / times_base)
    scale = at_base / times_base
    mask = attention_mask(segment_ids, window)
    heads = attention(q, k, v, mask, scale, config.attention_softcap, bias)
    return linear(heads.reshape(rows, length, -1), params['output'])


def feed_forward(x, params, activation):
    """Shazeer 2020 for the gated ones, So et al. 2021 for relu2."""
    up = linear(x, params['up'])
    if activation in ('swiglu', 'geglu', 'geglu_exact'):
        gate = {'swiglu': silu, 'geglu': gelu, 'geglu_exact': gelu_exact}[activation]
        hidden = gate(linear(x, params['gate'])) * up
    else:
        kinds = {'gelu': gelu, 'gelu_exact': gelu_exact, 'relu': relu, 'relu2': lambda u: relu(u) ** 2}
        hidden = kinds[activation](up)
    return linear(hidden, params['down'])


def sublayer(x, f, params, name, config):
    """pre: x + f(norm(x)). post (Vaswani et al. 2017): norm(x + f(x)). both (Gemma 2): x + norm(f(norm(x)))."""
    norm = params[f'{name}_norm']
    if config.norm_placement == 'pre':
        return x + f(normalise(x, norm, config))
    if config.norm_placement == 'post':
        return normalise(x + f(x), norm, config)
    return x + normalise(f(normalise(x, norm, config)), params[f'{name}_post_norm'], config)


def block(x, params, config, segment_ids, positions, window):
    def attend(y):
        return self_attention(y, params['attention'], config, segment_ids, positions, window)

    def feed(y):
        return feed_forward(y, params['feed_forward'], config.activation)

    x = sublayer(x, attend, params, 'attention', config)
    return sublayer(x, feed, params, 'feed_forward', config) if config.feed_forward_width != 0 else x


def forward(params, config, tokens, segment_ids=None, positions=None):
    """Logits (B, T, V) of tokens (B, T). Without segment ids a row is one document, without positions it starts at 0.

    Embeddings are scaled, then positions are added, then the sum is normalised (Vaswani et al. 2017; Devlin et al.
    2019): each where the config asks for it.
    """
    segment_ids = np.ones_like(tokens) if segment_ids is None else segment_ids
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape) if positions is None else positions
    table = params['embedding']['table']
    x = table[tokens] * config.embedding_scale
    if config.position == 'learned':
        x = x + params['positions']['table'][positions]
    if config.position == 'sinusoidal':
        x = x + sinusoids(positions, config.width)
    if config.embedding_norm:
        x = normalise(x, params['embedding_norm'], config)
    for layer in range(config.num_layers):
        window = config.windows[layer % len(config.windows)]
        x = block(x, layer_of(params['blocks'], layer), config, segment_ids, positions, window)
    x = normalise(x, params['final_norm'], config)
    if config.parametrization == 'mup':
        x = x / (config.width / config.base_width)
    logits = x @ table.T if config.tied_embeddings else linear(x, params['lm_head'])
    return logits if config.logit_softcap is None else config.logit_softcap * np.tanh(logits / config.logit_softcap)


def layer_of(stacked, layer):
    return {k: layer_of(v, layer) if isinstance(v, dict) else v[layer] for k, v in stacked.items()}


def next_token_loss(logits, targets, weights, label_smoothing=0.0, z_loss=0.0):
    """Weighted sum over the tokens, and the sum of the weights.

    A token's loss is the cross-entropy with (1 - s) on the target and s spread evenly over the vocabulary (Szegedy et
    al. 2016), plus z_loss * log(Z)^2 (Chowdhery et al. 2022).
    """
    log_z = log_sum_exp(logits)
    log_p = logits - log_z[..., None]
    target = np.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
    loss = -(1 - label_smoothing) * target - label_smoothing * log_p.mean(axis=-1) + z_loss * log_z**2
    return (weights * loss).sum(), weights.sum()


# --------------------------------------------------------------------------------------------------------- parameters


def parameter_shapes(config):
    """The parameter tree with shapes for leaves, from the config's fields alone."""
    width, hidden, layers = config.width, config.hidden_width, config.num_layers
    queries, keys = config.num_heads * config.key_size, config.kv_heads * config.key_size

    def projection(fan_in, fan_out, site):
        return {'kernel': (fan_in, fan_out)} | ({'bias': (fan_out,)} if site in config.biases else {})

    norm = {'scale': (width,)} | ({'bias': (width,)} if 'norm' in config.biases else {})
    blocks = {
        'attention_norm': norm,
        'attention': {
            'query': projection(width, queries, 'query'),
            'key': projection(width, keys, 'key'),
            'value': projection(width, keys, 'value'),
            'output': projection(queries, width, 'attention_output'),
        },
        'feed_forward_norm': norm,
        'feed_forward': {
            'up': projection(width, hidden, 'feed_forward'),
            'down': projection(hidden, width, 'feed_forward'),
        },
    }
    if config.qk_norm:
        blocks['attention'] |= {name: {'scale': (config.key_size,)} for name in ('query_norm', 'key_norm')}
    if config.activation in ('swiglu', 'geglu', 'geglu_exact'):
        blocks['feed_forward']['gate'] = projection(width, hidden, 'feed_forward')
    if config.norm_placement == 'both':
        blocks |= {'attention_post_norm': norm, 'feed_forward_post_norm': norm}
    if config.feed_forward_width == 0:
        blocks = {name: part for name, part in blocks.items() if not name.startswith('feed_forward')}
    tree = {
        'embedding': {'table': (config.vocab_size, width)},
        'blocks': map_leaves(lambda path, shape: (layers, *shape), blocks),
        'final_norm': norm,
    }
    if config.position == 'learned':
        tree['positions'] = {'table': (config.context_length, width)}
    if config.embedding_norm:
        tree['embedding_norm'] = norm
    if not config.tied_embeddings:
        tree['lm_head'] = projection(width, config.vocab_size, 'lm_head')
    return tree


def map_leaves(f, tree, path=()):
    """The tree with f(path, leaf) for leaves; path is a tuple of names."""
    return {k: map_leaves(f, v, (*path, k)) if isinstance(v, dict) else f((*path, k), v) for k, v in tree.items()}


def random_parameters(config, seed=0):
    """Parameters in which nothing is at its usual start: no zero bias, no scale of one, scores away from uniform."""
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        noise = rng.normal(size=shape)
        if path[-1] == 'kernel':
            return 1.5 * noise / math.sqrt(shape[-2])
        if path[-1] == 'scale':
            return 0.3 * noise + (0.0 if config.norm_unit_offset else 1.0)
        return {'table': 0.7, 'bias': 0.3}[path[-1]] * noise

    return map_leaves(draw, parameter_shapes(config))
