"""What the vendors' data sheets promise: matrix products per second and bytes of memory per second, by device."""

from typing import NamedTuple


class DataSheet(NamedTuple):
    """One device, as jax counts devices: a chip, but a core (half a chip) on TPU v2 and v3. None is no such unit.

    Attributes:
        bfloat16: dense peak in TFLOP/s, sparsity off, accumulated in float32.
        float16: the same for float16.
        bandwidth: of the device's main memory in GB/s (10^9 bytes).
    """

    bfloat16: float | None
    float16: float | None
    bandwidth: float


# Keys are `jax.Device.device_kind`, matched by their beginning, the longest first.
DATA_SHEETS: dict[str, DataSheet] = {
    'NVIDIA A100': DataSheet(312, 312, 1555),  # 'NVIDIA A100-SXM4-40GB', 'NVIDIA A100-PCIE-40GB'
    'NVIDIA A100-SXM4-80GB': DataSheet(312, 312, 2039),
    'NVIDIA A100 80GB PCIe': DataSheet(312, 312, 1935),
    'NVIDIA RTX A6000': DataSheet(154.8, 154.8, 768),
    'NVIDIA H100': DataSheet(989.4, 989.4, 3350),  # SXM reports itself as 'NVIDIA H100 80GB HBM3'
    'NVIDIA H100 PCIe': DataSheet(756, 756, 2000),
    'NVIDIA H100 NVL': DataSheet(835.5, 835.5, 3900),
    'NVIDIA H200': DataSheet(989.4, 989.4, 4800),
    'NVIDIA H200 NVL': DataSheet(835.5, 835.5, 4800),
    'NVIDIA B200': DataSheet(2250, 2250, 8000),
    'NVIDIA GB200': DataSheet(2500, 2500, 8000),
    'NVIDIA L4': DataSheet(121, 121, 300),
    'NVIDIA L40S': DataSheet(362, 362, 864),
    'NVIDIA GeForce RTX 3090': DataSheet(71, 71, 936),
    'NVIDIA GeForce RTX 4090': DataSheet(165.2, 165.2, 1008),
    'Tesla V100-SXM2': DataSheet(None, 125, 900),
    'Tesla V100-PCIE': DataSheet(None, 112, 900),
    'Tesla T4': DataSheet(None, 65, 320),
    'TPU v2': DataSheet(22.5, None, 350),  # a core: half of the chip's 45 TFLOP/s and 700 GB/s
    'TPU v3': DataSheet(61.5, None, 450),  # a core: half of 123 and 900
    'TPU v4': DataSheet(275, None, 1228),
    'TPU v4 lite': DataSheet(138, None, 614),  # v4i
    'TPU v5': DataSheet(459, None, 2765),  # v5p
    'TPU v5p': DataSheet(459, None, 2765),
    'TPU v5 lite': DataSheet(197, None, 819),
    'TPU v5e': DataSheet(197, None, 819),
    'TPU v6 lite': DataSheet(918, None, 1638),
    'TPU v6e': DataSheet(918, None, 1638),
}


def data_sheet(device_kind: str) -> DataSheet | None:
    """The entry of a device, or None if it is not in the table.

    Args:
        device_kind: `jax.devices()[0].device_kind`.
    """
    names = [name for name in DATA_SHEETS if device_kind == name or device_kind.startswith((f'{name} ', f'{name}-'))]
    return DATA_SHEETS[max(names, key=len)] if names else None


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Dense peak of one device in FLOP/s, or None where it is not known.

    Args:
        device_kind: `jax.devices()[0].device_kind`.
        dtype: of the matrix products' operands. float32 is None: which unit runs it (plain or TF32) is the compiler's
            choice, so there is no one peak.
    """
    sheet = data_sheet(device_kind)
    if sheet is None or dtype not in ('bfloat16', 'float16'):
        return None
    peak = getattr(sheet, dtype)
    return None if peak is None else peak * 1e12


def memory_bandwidth(device_kind: str) -> float | None:
    """Bytes per second of one device's main memory, or None where it is not known."""
    sheet = data_sheet(device_kind)
    return None if sheet is None else sheet.bandwidth * 1e9
