"""Floating-point operations per token under named conventions, and how much of an accelerator's peak they use.

A multiply-add is two operations. The forward pass multiplies each token's activations once with every weight of a
matrix product; the backward pass does so twice (for the gradient of the activations and of the weights). What is
recomputed (`model.remat`) is not counted: this is model FLOPs utilisation, not hardware FLOPs utilisation (Chowdhery et
al. 2022, PaLM, appendix B).

    6N                    weights only
    6N+attention_causal   and the scores and weighted sums that a causal mask leaves: half of the square
    6N+attention_full     and the whole square, as PaLM and most published numbers count

N is the number of weights in matrix products: blocks and head, tied or not, neither embedding tables (looked up) nor
norms and biases (added or scaled), nor the patch encoder (only image tokens meet it). Sliding windows shrink attention
under both; attention across documents packed into one row is counted as if it happened, so that a token costs the same
in every batch.
"""

from typing import Literal, get_args

from llm.config import Config, ModelConfig, PrefixLM

Convention = Literal['6N', '6N+attention_causal', '6N+attention_full']
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)
DEFAULT_CONVENTION: Convention = '6N+attention_causal'
VERSION = 1  # of the definitions above; numbers are comparable within a version


def matmul_weights(model: ModelConfig) -> int:
    """N: how many weights there are in matrix products, the head included whether tied or not.

    A token meets each of them once, but in a model with an encoder, where what is read and what is written meet
    different ones (`flops_per_text_token`).
    """
    encoder, decoder, cross_read, cross_written, head = _parts(model)
    return encoder + decoder + cross_read + cross_written + head


def _parts(model: ModelConfig) -> tuple[int, int, int, int, int]:
    """Weights of the encoder's blocks, the decoder's, its cross-attention (keys and values; the rest), and the head."""
    read = 2 * model.width * model.key_size * model.kv_heads  # key, value
    written = 2 * model.width * model.key_size * model.num_heads  # query, output
    feed_forward = (3 if model.gated else 2) * model.width * model.hidden_width
    block = read + written + feed_forward
    crossing = model.num_layers if model.encoder_layers else 0
    return (
        model.encoder_layers * block,
        model.num_layers * block,
        crossing * read,
        crossing * written,
        model.vocab_size * model.width,
    )


def attention_keys(window: int | None, length: int, causal: bool) -> float:
    """Keys a query meets on average in a row of `length` tokens.

    Causal counts the area under the diagonal, length / 2 without a window (the half of a key that the diagonal adds is
    left out, as is usual), and window - window^2 / (2 length) with one.
    """
    span = length if window is None else min(window, length)
    return span - span**2 / (2 * length) if causal else float(span)


def forward_flops_per_token(
    model: ModelConfig, sequence_length: int, convention: Convention = DEFAULT_CONVENTION
) -> float:
    """FLOPs of one token's forward pass, averaged over a row of `sequence_length` tokens.

    Raises:
        ValueError: for a convention that is not one of `CONVENTIONS`.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f'FLOP convention is {convention!r}; it must be one of {", ".join(CONVENTIONS)}')
    weights = 2.0 * matmul_weights(model)
    if convention == '6N':
        return weights
    causal = convention == '6N+attention_causal'
    keys = sum(attention_keys(window, sequence_length, causal) for window in model.layer_windows)
    return weights + 4 * model.num_heads * model.key_size * keys  # query-key scores, and their weighted sum of values


def training_flops_per_token(
    model: ModelConfig, sequence_length: int, convention: Convention = DEFAULT_CONVENTION
) -> float:
    """FLOPs of one token's forward and backward pass: 6N plus, for attention_full, PaLM's 12 L H Q T."""
    return 3 * forward_flops_per_token(model, sequence_length, convention)


def flops_per_text_token(config: Config, convention: Convention = DEFAULT_CONVENTION) -> float:
    """FLOPs of training per token of a window's text, whatever the objective hides of it or adds to it.

    Of a model that reads from left to right, `training_flops_per_token`. Otherwise those of the expected numbers of
    tokens read and written; padding is not counted, and under `6N+attention_causal` every score that the mask leaves.
    Sliding windows are counted in models that read from left to right only.

    Raises:
        ValueError: for a convention that is not one of `CONVENTIONS`.
    """
    model, length, objective = config.model, config.data.sequence_length, config.objective
    plain = training_flops_per_token(model, length, convention)
    if config.reading == 'causal':
        return plain
    # Of a window: tokens read and written, the scores that each kind of attention has, and of these the masked ones.
    read, written = float(length), 0.0
    squares = (length**2, 0.0, 0.0)  # read x read, read x written, written x written
    if isinstance(objective, PrefixLM):  # the cut is uniform
        read = written = length / 2
        squares = (length**2 / 3, length**2 / 6, length**2 / 3)
    elif config.reading != 'bidirectional':
        hidden, blanks = objective.blanks(length)
        read, written = float(length - hidden + blanks), float(objective.target_length(length))
        squares = (read**2, read * written, written**2)
    reading, crossing, writing = squares
    if convention != '6N+attention_full':
        writing /= 2
    elif config.reading == 'prefix':
        crossing *= 2  # the other half of the square, where what is read does not see what is written
    encoder, decoder, cross_read, cross_written, head = _parts(model)
    if config.reading == 'encoder_decoder':
        weights = read * (encoder + cross_read) + written * (decoder + cross_written + head)
        scores = model.encoder_layers * reading + model.num_layers * (crossing + writing)
    else:
        weights = (read + written) * (decoder + head)
        scores = model.num_layers * (reading + crossing + writing)
    attention = 0.0 if convention == '6N' else 4 * model.num_heads * model.key_size * scores
    return 3 * (2 * weights + attention) / length


def run_flops(config: Config) -> float:
    """FLOPs of all updates of a run, by the default convention."""
    length = config.data.sequence_length
    tokens = config.training.steps * config.training.batch_size * length
    return tokens * flops_per_text_token(config)


def mfu(tokens_per_second: float, flops_per_token: float, peak: float | None, num_devices: int = 1) -> float | None:
    """Model FLOPs utilisation, a fraction of the peak of all devices; None where the peak is not known.

    Args:
        tokens_per_second: over all devices.
        flops_per_token: of training, see `training_flops_per_token`; name its convention beside the result.
        peak: of one device in FLOP/s, see `hardware.peak_flops`.
        num_devices: how many devices share the work.
    """
    return None if peak is None else tokens_per_second * flops_per_token / (peak * num_devices)
