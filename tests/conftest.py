"""For every test: eight virtual CPU devices, a cache of compiled programs, and a Glassbox cache of its own."""

import gc
import os
import pathlib
import tempfile

from xla_flags import xla_flags

# Before jax is imported. With fewer threads than this the CPU's all-reduce over eight devices can deadlock.
os.environ['NPROC'] = '32'
os.environ['XLA_FLAGS'] = xla_flags(8)
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # SciPy's small systems wake threads for nothing
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(pathlib.Path(tempfile.gettempdir()) / 'glassbox-test-compiled'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')
os.environ['GLASSBOX_CACHE'] = str(pathlib.Path(tempfile.gettempdir()) / 'glassbox-test-cache')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import jax
import pytest
from jaxtyping import install_import_hook

MOST_AREAS = 16_000

# Tracing makes and drops so many objects that at Python's default the collector takes a tenth of the time.
gc.set_threshold(100_000, 50, 100)

# Shapes and dtypes in the signatures of the model and the objectives are checked at every call.
install_import_hook(['llm.model', 'llm.objectives'], 'beartype.beartype')


@pytest.fixture(scope='module', autouse=True)
def few_programs_in_memory():
    """A process may map 65,530 areas of memory, and compiled programs take several each; past that, LLVM crashes."""
    yield
    areas = pathlib.Path('/proc/self/maps')
    if not areas.is_file() or len(areas.read_bytes().splitlines()) > MOST_AREAS:
        jax.clear_caches()
        gc.collect()
