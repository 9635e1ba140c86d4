"""The most memory that this process has held."""

import resource
from pathlib import Path


def peak_memory() -> float:
    """Bytes; Linux starts getrusage's from the peak of the process that started this one."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024.0 * float(lines["VmHWM"].split()[0])
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # in bytes on macOS
