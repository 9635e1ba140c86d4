"""Environments of the processes that tests start."""

import os


def cpu_devices(count: int) -> dict[str, str]:
    """This process's environment, in which jax finds ``count`` devices on the CPU."""
    flags = os.environ.get("XLA_FLAGS", "")
    flags = f"{flags} --xla_force_host_platform_device_count={count}".strip()
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
