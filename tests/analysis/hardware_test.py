import pytest

from llm.analysis import hardware


@pytest.mark.parametrize(
    'kind, dtype, tera',
    [
        ('NVIDIA A100-SXM4-80GB', 'bfloat16', 312),
        ('NVIDIA H100 80GB HBM3', 'bfloat16', 989.4),
        ('NVIDIA H100 PCIe', 'bfloat16', 756),
        ('NVIDIA H200', 'bfloat16', 989.4),
        ('NVIDIA L4', 'bfloat16', 121),
        ('NVIDIA L40S', 'bfloat16', 362),
        ('Tesla V100-SXM2-16GB', 'float16', 125),
        ('Tesla V100-SXM2-16GB', 'bfloat16', None),
        ('TPU v4', 'bfloat16', 275),
        ('TPU v5 lite', 'bfloat16', 197),
        ('TPU v5', 'bfloat16', 459),
        ('TPU v6 lite', 'bfloat16', 918),
        ('NVIDIA H200', 'float32', None),
        ('NVIDIA L400', 'bfloat16', None),
        ('cpu', 'bfloat16', None),
    ],
)
def test_peaks_are_found_by_device_kind(kind, dtype, tera):
    assert hardware.peak_flops(kind, dtype) == (None if tera is None else tera * 1e12)


@pytest.mark.parametrize(
    'kind, giga',
    [
        ('NVIDIA A100-SXM4-40GB', 1555),
        ('NVIDIA A100-SXM4-80GB', 2039),
        ('NVIDIA A100 80GB PCIe', 1935),
        ('NVIDIA H100 80GB HBM3', 3350),
        ('NVIDIA H100 NVL', 3900),
        ('NVIDIA H200', 4800),
        ('Tesla V100-PCIE-16GB', 900),
        ('TPU v3', 450),
        ('TPU v5 lite', 819),
        ('cpu', None),
        ('NVIDIA L400', None),
    ],
)
def test_bandwidths_are_found_by_device_kind(kind, giga):
    assert hardware.memory_bandwidth(kind) == (None if giga is None else giga * 1e9)


def test_every_entry_needs_tens_to_hundreds_of_operations_per_byte():
    """A slipped digit in the table would leave this range."""
    for name, sheet in hardware.DATA_SHEETS.items():
        assert 50 < 1e3 * (sheet.bfloat16 or sheet.float16) / sheet.bandwidth < 600, name
