"""Installation: `pip install -e .` for the laboratory, `.[test]` for its tests and linter."""

import pathlib
import re

from setuptools import find_packages, setup

version = re.search(r"__version__ = '(.+?)'", pathlib.Path('llm/__init__.py').read_text()).group(1)

COMPRESSION = ['constriction>=0.4', 'zstandard>=0.22']
EVAL = ['lm-eval>=0.4.13']
HUGGINGFACE = ['huggingface-hub>=0.30', 'safetensors>=0.5', 'tokenizers>=0.21']
SERVE = ['fastapi>=0.115', 'prometheus-client>=0.20', 'pydantic>=2.9', 'uvicorn>=0.30']
IMAGES = ['pillow>=10', 'scikit-learn>=1.4']
RAY = ['ray>=2.9']
SLURM = ['submitit>=1.5']
UMAP = ['umap-learn>=0.5.7']
NOTEBOOKS = ['ipykernel>=6', 'nbclient>=0.10', 'nbformat>=5']

setup(
    name='glassbox-llm',
    version=version,
    description='A language-model laboratory in JAX/Flax',
    license='Apache-2.0',
    python_requires='>=3.11',
    packages=find_packages(include=['llm', 'llm.*']),
    package_data={'llm.analysis': ['templates/*'], 'llm.explorer': ['page/*', 'page/*/*']},
    install_requires=[
        'absl-py>=2.1',
        'array-record>=0.8',  # the file format of the embedded TFDS corpus
        'filelock>=3.13',
        'flax>=0.12',
        'grain>=0.2.10',
        'importlib-resources>=6',  # tensorflow-datasets imports it without declaring it
        'jax>=0.10',
        'jaxtyping>=0.3',
        'jinja2>=3.1.6',  # older sandboxes can be left
        'matplotlib>=3.9',
        'numpy>=2.0',
        'optax>=0.2.8',
        'orbax-checkpoint>=0.12',
        'pyarrow>=15',
        'rich>=13',
        'scipy>=1.11',
        'sentencepiece>=0.2',
        'tensorboardX>=2.6',
        'tensorflow-datasets>=4.9.9',
        'tqdm>=4.66',
        'tyro>=1.0',
    ],
    extras_require={
        'huggingface': HUGGINGFACE,
        'eval': [*EVAL, *HUGGINGFACE],
        'serve': SERVE,
        'compression': COMPRESSION,
        'images': IMAGES,
        'umap': UMAP,
        'ray': RAY,
        'slurm': SLURM,
        'notebooks': [*NOTEBOOKS, 'jupyterlab>=4'],
        'peers': ['torch>=2.6', 'transformers>=5', *EVAL, *HUGGINGFACE],
        'test': [
            *('beartype>=0.20', 'openai>=1.60', 'playwright>=1.50', 'pytest>=8', 'pytest-xdist>=3.6', 'ruff>=0.9'),
            *(*COMPRESSION, *EVAL, *HUGGINGFACE, *IMAGES, *SERVE, *RAY, *SLURM, *NOTEBOOKS),
        ],
    },
)
