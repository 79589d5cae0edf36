"""Pictures as text: a model that reads bytes learns handwritten digits, a byte a pixel, and compresses others.

The digits are scikit-learn's (Alpaydin & Kaynak 1998): 1,797 pictures of 8 x 8 pixels in 17 shades. A pixel is the byte
of its shade, so a picture is 64 bytes, row by row. In the data set the same writers' digits follow each other, so the
last fifth of it, held out here, is mostly by other hands.
"""

import base64
import io
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.compression import others
from llm.analysis import memory, statistics
from llm.compression import archive, codec, container
from llm.compression.compressor import Compressor, load
from llm.config import (
    AdamW,
    CheckpointConfig,
    Config,
    Cosine,
    DataConfig,
    EvaluationConfig,
    LogConfig,
    ModelConfig,
    TokenizerConfig,
    TrainingConfig,
)
from llm.errors import MachineError, UserError
from llm.sweep import space
from llm.sweep.experiment import run_sweep
from llm.sweep.options import SweepOptions
from llm.tokenizer.glassbox import BOS
from llm.workdir import write_atomically

SIDE = 8
PIXELS = SIDE * SIDE
SHADES = 17
HELD_OUT = 5  # one in so many
STEPS = 600  # updates of a model
SHOWN = 10  # pictures of each kind on the page


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pictures to learn from and pictures to compress, (n, 64) of uint8 below 17.

    Raises:
        UserError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError("the digits come with scikit-learn; pip install 'glassbox-llm[images]'") from error
    pictures = load_digits().data.astype(np.uint8)
    cut = len(pictures) - len(pictures) // HELD_OUT
    return pictures[:cut], pictures[cut:]


def config(corpus: pathlib.Path, steps: int) -> Config:
    """A small model of bytes. A row is a picture, with what starts and ends it."""
    length = PIXELS + 2
    return Config(
        name='digits',
        model=ModelConfig(
            vocab_size=272, context_length=length, num_layers=2, width=64, num_heads=4, position='learned'
        ),
        tokenizer=TokenizerConfig(kind='byte'),
        data=DataConfig(corpora=(f'jsonl:{corpus}',), sequence_length=length),
        optimizer=AdamW(learning_rate=3e-3, weight_decay=0.1),
        schedule=Cosine(horizon=steps, warmup=steps // 20),
        training=TrainingConfig(steps=steps, batch_size=32),
        checkpoint=CheckpointConfig(every=steps),
        evaluation=EvaluationConfig(every=max(1, steps // 4), sample_tokens=0),
        log=LogConfig(every=20, tensorboard=False),
    )


def models(out: pathlib.Path, pictures: np.ndarray, seeds: int, steps: int) -> list[Compressor]:
    """Trains a model a seed, where that is not done yet."""
    out.mkdir(parents=True, exist_ok=True)
    corpus = out / 'digits.jsonl'
    rows = ''.join(json.dumps({'text': bytes(picture).decode('ascii')}) + '\n' for picture in pictures)
    if not corpus.is_file() or corpus.read_text() != rows:  # a file that is written again is another corpus
        write_atomically(corpus, rows)
    configs = space.configs(config(corpus, steps), space.seeds(seeds))
    runs = run_sweep(out / 'digits', configs, SweepOptions(progress=sys.stderr.isatty()))
    return [load(run.workdir) for run in runs]


def bits(model: Compressor, pictures: np.ndarray) -> np.ndarray:
    """What every pixel of every picture costs, (n, 64), in bits: each picture a stream of its own."""
    predictors = model.predictors(pictures.size, len(pictures), model.window)
    tokens = np.array([model.tokenizer.encode(bytes(picture)) for picture in pictures], np.int32)
    costs = np.zeros(tokens.shape)

    def cost(at, first, found, coding):
        now = np.ascontiguousarray(tokens[first : first + coding, at])
        exact = found.astype(np.float64)
        costs[first : first + coding, at] = np.log2(exact.sum(axis=1)) - np.log2(exact[np.arange(coding), now])
        return now

    codec.run(predictors, pictures.size, BOS, cost)
    return costs


def histogram_bits(training: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """The same if each pixel is coded by how often its place had each shade in training, one more of each."""
    counts = np.stack([np.bincount(column, minlength=SHADES) + 1.0 for column in training.T])
    probabilities = counts / counts.sum(axis=1, keepdims=True)
    return -np.log2(probabilities[np.arange(PIXELS), pictures])


def measure(compressors: Sequence[Compressor], training: np.ndarray, pictures: np.ndarray) -> dict[str, Any]:
    """Bits per pixel of every way to keep the held-out pictures, and which were cheap and dear."""
    data = pictures.tobytes()
    costs = np.stack([bits(model, pictures) for model in compressors])
    archives = [archive.compress(model, data, len(pictures)) for model in compressors]
    for model, made in zip(compressors, archives):
        if archive.restore(model, container.from_bytes(made.data, 'the archive')) != data:
            raise MachineError('what came out of an archive is not what went in')
    rows = [('8 bits a pixel, as they are', 8.0, None), ('17 shades, all equally likely', float(np.log2(SHADES)), None)]
    greys = (pictures.astype(np.int64) * 255 // (SHADES - 1)).astype(np.uint8).reshape(-1, SIDE, SIDE)
    sizes = [others.png_size(picture) for picture in greys]
    rows.append(('PNG, each picture', *_interval([8 * size / PIXELS for size in sizes])))
    rows.append(('PNG, all in one picture', 8 * others.png_size(sheet(greys)) / pictures.size, None))
    for program in others.programs():
        rows.append((f'{program.name}, all as one', 8 * others.measure(program, [data]).sizes[0] / pictures.size, None))
    rows.append(('each pixel by counts of its place', *_interval(histogram_bits(training, pictures).mean(axis=1))))
    rows.append(('the model', *_interval(costs.mean(axis=(0, 2)))))
    rows.append(
        ('the model, with its archive', 8 * np.mean([len(made.data) for made in archives]) / pictures.size, None)
    )
    mean = costs.mean(axis=0).sum(axis=1)
    order = np.argsort(mean)
    return {
        'training': len(training),
        'pictures': len(pictures),
        'seeds': len(compressors),
        'parameters': memory.parameter_count(compressors[0].model.config),
        'rows': [{'name': name, 'bits_per_pixel': value, 'interval': ends} for name, value, ends in rows],
        'by_seed': costs.mean(axis=(1, 2)).tolist(),
        'archive_bytes': [len(made.data) for made in archives],
        'cost_of_places': costs.mean(axis=(0, 1)).tolist(),
        'shown': {
            name: [{'picture': pictures[i].tolist(), 'bits': float(mean[i])} for i in chosen]
            for name, chosen in (('cheapest', order[:SHOWN]), ('dearest', order[-SHOWN:]))
        },
    }


def _interval(values: Sequence[float]) -> tuple[float, list[float]]:
    """A mean over pictures with its 95% interval."""
    found = statistics.mean_interval(values)
    return found.mean, [found.low, found.high]


def sheet(pictures: np.ndarray) -> np.ndarray:
    """Pictures (n, rows, columns) beside and below each other, the last row filled up with black."""
    number, height, width = pictures.shape
    columns = int(np.ceil(np.sqrt(number)))
    lines = -(-number // columns)
    filled = np.zeros((lines * columns, height, width), pictures.dtype)
    filled[:number] = pictures
    return filled.reshape(lines, columns, height, width).swapaxes(1, 2).reshape(lines * height, columns * width)


def data_uri(shades: Sequence[float], largest: float) -> str:
    """A picture of 8 x 8 as a PNG that a page can hold; `largest` is white."""
    from PIL import Image

    grey = np.clip(np.array(shades, float) / largest * 255, 0, 255).astype(np.uint8).reshape(SIDE, SIDE)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, 'PNG')
    return 'data:image/png;base64,' + base64.b64encode(buffer.getvalue()).decode('ascii')
