"""For every test: eight virtual CPU devices, a cache of compiled programs, and a Glassbox cache of its own."""

import os
import pathlib
import tempfile

# Before jax is imported. With fewer threads than this the CPU's all-reduce over eight devices can deadlock.
os.environ['NPROC'] = '32'
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(pathlib.Path(tempfile.gettempdir()) / 'glassbox-test-compiled'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')
os.environ['GLASSBOX_CACHE'] = str(pathlib.Path(tempfile.gettempdir()) / 'glassbox-test-cache')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

from jaxtyping import install_import_hook

# Shapes and dtypes in the signatures of the model and the objectives are checked at every call.
install_import_hook(['llm.model', 'llm.objectives'], 'beartype.beartype')
