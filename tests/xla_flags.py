"""How XLA compiles in tests."""

import os


def xla_flags(devices: int) -> str:
    """The value of XLA_FLAGS for a process with so many virtual CPU devices.

    Tests compile thousands of programs and run most of them once, so these are compiled with little optimisation: it
    takes a third of the time. `make test-all` sets GLASSBOX_OPTIMIZED_TESTS, and has them as users do.
    """
    flags = [f'--xla_force_host_platform_device_count={devices}']
    if not os.environ.get('GLASSBOX_OPTIMIZED_TESTS'):
        flags += [
            '--xla_backend_optimization_level=0',
            '--xla_cpu_use_fusion_emitters=false',
            '--xla_cpu_parallel_codegen_split_count=1',
        ]
    return ' '.join(flags)
