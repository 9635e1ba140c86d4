"""What the command line sets for the whole process, before anything is computed."""

import contextlib
import io
import os
import sys
from pathlib import Path

DEVICES = ("cpu", "gpu", "tpu")


def configure_jax(device: str | None = None, cpu_devices: int | None = None) -> None:
    """Enable x64, single-threaded LAPACK and, on accelerators, a compilation cache.

    The threads of LAPACK wait for each other busily; beside those of jax they slow a
    small eigendecomposition down many times on a loaded machine. The cache lies in
    ``$SHARPFLOW_CACHE``, by default ``~/.cache/sharpflow/jax``. On a CPU jax prints
    pages of warnings about machine features whenever it reads one, so there is none.

    Args:
      device: ``"cpu"``, ``"gpu"`` or ``"tpu"``; the best there is by default.
      cpu_devices: into how many jax devices the cores are split, each of which then runs
        matrix products on one thread; one by default.

    Raises:
      ValueError: no such device here.
    """
    # XLA reads the flags once, when the first backend starts. One thread for each device, because
    # the threads of several matrix products would wait for one another. A user's own setting of the
    # flag stays.
    if cpu_devices is not None and cpu_devices > 1:
        flags = os.environ.get("XLA_FLAGS", "")
        if "xla_cpu_multi_thread_eigen" not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    import jax
    import matplotlib
    import scipy.linalg  # noqa: F401  its LAPACK must be loaded to be limited
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, user_api="blas")
    # Files are all that is drawn, and a machine without a screen has no other backend.
    matplotlib.use("agg")

    jax.config.update("jax_enable_x64", True)
    if device is not None:
        # A GPU is not asked for by name: jax takes "gpu" for CUDA and ROCm together, and refuses to
        # start where one of the two is not installed. Without a name it takes the best there is,
        # and ``start_cache`` looks whether that is a GPU.
        jax.config.update("jax_platforms", None if device == "gpu" else device)
    if cpu_devices is not None:
        # too late once something was computed: then the devices are as they are
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", cpu_devices)


def start_cache(device: str | None = None) -> None:
    """Keep what is compiled for an accelerator; called when the backend may start.

    Args:
      device: as of ``configure_jax``.

    Raises:
      ValueError: no device of the kind that was asked for.
    """
    import jax

    missing = missing_platform(device)
    if missing is not None:
        raise ValueError(missing)
    if jax.default_backend() == "cpu":
        return
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = os.environ.get("SHARPFLOW_CACHE") or str(Path(base) / "sharpflow" / "jax")
    jax.config.update("jax_compilation_cache_dir", os.path.expanduser(folder))
    # By itself jax keeps what took a second or more to compile. Many programs of a run, such as
    # those of its records, take less, and together as long as a large one.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def missing_platform(device: str | None = None) -> str | None:
    """What to say where jax finds no device of the kind that was asked for; None where it does.

    jax itself names the last backend that it tried, which may be one that nobody asked for, or
    fails at an assertion.

    Args:
      device: as of ``configure_jax``.

    Returns:
      One sentence with what was asked for, by ``--device`` or by ``JAX_PLATFORMS``, what this jax
      has, and how it gets more.
    """
    import jax

    try:
        if jax.default_backend() == "gpu" or device != "gpu":
            return None
    except (RuntimeError, AssertionError):
        pass
    wanted = device or jax.config.values["jax_platforms"]
    # The request that failed is withdrawn, so that jax can say what it does have.
    jax.config.update("jax_platforms", None)
    here = ", ".join(sorted({one.platform for one in jax.local_devices()}))
    by_variable = device is None and wanted == os.environ.get("JAX_PLATFORMS")
    return (
        f"{'JAX_PLATFORMS' if by_variable else '--device'}: got {wanted}; allowed here is {here}, "
        f"which is what jax {jax.__version__} finds; for NVIDIA install it with CUDA, "
        'pip install "jax[cuda13]", for others as docs.jax.dev says'
    )


def utf8_text(argument: str) -> str:
    """An argument of the command line as the text that its bytes are, whatever the locale is."""
    return os.fsencode(argument).decode("utf-8", "surrogateescape")


def printable_streams() -> None:
    """Have what a stream cannot encode printed as an escape, where it would end the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
