"""The arrays that a problem is made of: what may be one, and how it comes to a device."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharpflow.models.arguments import shown

_ENABLE_X64 = "call jax.config.update('jax_enable_x64', True) first, or use 32 bits"


@contextlib.contextmanager
def known_while_traced() -> Iterator[None]:
    """A context in which what is computed of numbers is numbers, also where a caller is traced.

    Elsewhere it does nothing. ``jax.ensure_compile_time_eval`` belongs to the keys of jax's caches,
    so that what was compiled within it is compiled once more outside; and a function that is traced
    within it computes what does not depend on its arguments one operation at a time, by a program
    of its own each.
    """
    if isinstance(jnp.zeros(()), jax.core.Tracer):
        with jax.ensure_compile_time_eval():
            yield
    else:
        yield


def validated_leaves(data: Any, name: str = "data") -> Any:
    """The leaves of data as jax arrays, where they already are on devices as they are.

    Numbers of Python take the dtype of the floating-point arrays beside them, if that is one, and
    no leaf has a weak dtype: a program for 2.0 serves any array of shape (). Where nothing beside
    them is floating point and x64 is enabled, numbers stay weak and adapt to the params.

    Args:
      data: a pytree.
      name: what to call it in errors.

    Raises:
      ValueError: a leaf that is no array, that jax would change, or that lies on another device
        than the others, by its place.
    """
    dtypes = {
        leaf.dtype
        for leaf in jax.tree.leaves(data)
        if hasattr(leaf, "dtype") and not getattr(leaf, "weak_type", False)
    }
    floating = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
    # With float32 and float64 beside each other there is no one dtype that was meant, and the
    # number keeps the dtype that jax gives it.
    beside = floating[0] if len(floating) == 1 else None
    # alone, a number of float64 would make a problem with params of float32 one of float64
    stays_weak = x64_enabled() and not floating

    def dtype_of(weak: Any) -> Any:
        return beside if beside is not None and jnp.issubdtype(weak, jnp.floating) else weak

    def array(path: tuple, leaf: Any) -> Any:
        where = name + jax.tree_util.keystr(path)
        if isinstance(leaf, np.ma.MaskedArray):
            raise ValueError(f"{where} is a masked array, which jax has not: fill it first")
        if type(leaf) in (float, complex) and not stays_weak:
            leaf = np.asarray(leaf, dtype_of(jnp.result_type(type(leaf))))
        if isinstance(leaf, bool | int | np.generic):
            leaf = np.asarray(leaf)
        dtype = getattr(leaf, "dtype", None)
        require_x64_for(dtype, where)
        if isinstance(leaf, np.ndarray):
            _require_held(leaf, where)
        try:
            made = on_device(leaf) if isinstance(leaf, np.ndarray) else jnp.asarray(leaf)
            if getattr(made, "weak_type", False) and not stays_weak:
                return jax.lax.convert_element_type(made, dtype_of(made.dtype))
            return made
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"{where} must be an array, got {shown(leaf)}: what is no array belongs "
                "into the functions of a problem"
            ) from error

    arrays = jax.tree_util.tree_map_with_path(array, data)
    _require_same_devices(arrays, name)
    return arrays


def _require_same_devices(data: Any, name: str) -> None:
    """Refuse arrays that were placed on different devices, which no compiled function takes.

    Those that nobody placed go along with the others.
    """
    first: tuple[str, set] | None = None
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        # An uncommitted array lies on the default device only because nobody said where: jax moves
        # it to the others by itself.
        if isinstance(leaf, jax.core.Tracer) or not leaf.committed:
            continue
        where, devices = name + jax.tree_util.keystr(path), leaf.sharding.device_set
        if first is None:
            first = where, devices
        elif devices != first[1]:
            places = [", ".join(sorted(map(str, one))) for one in (first[1], devices)]
            raise ValueError(
                f"{name} must lie on the same devices, got {first[0]} on {places[0]} and {where} "
                f"on {places[1]}: place them together with jax.device_put(data, device)"
            )


def _require_held(array: np.ndarray, name: str) -> None:
    """Refuse entries that the dtype that jax has for an array does not hold."""
    if array.dtype == np.complex128 and not x64_enabled():
        raise ValueError(f"{name} is complex128 but jax runs without x64: {_ENABLE_X64}")
    if array.dtype.kind not in "iuO" or not array.size:
        return
    if array.dtype.kind == "O":  # as numpy has integers that are too large for any dtype
        raise ValueError(f"{name} must be an array of numbers, got objects: {shown(array)}")
    limits = np.iinfo(jax.dtypes.canonicalize_dtype(array.dtype))
    if limits.dtype == array.dtype:
        return
    low, high = int(np.min(array)), int(np.max(array))
    if not limits.min <= low <= high <= limits.max:
        raise ValueError(
            f"{name} must hold integers from {limits.min} to {limits.max}, as {limits.dtype} does, "
            f"got {low} to {high}: {_ENABLE_X64}"
        )


def on_device(array: np.ndarray, place: jax.sharding.Sharding | None = None) -> jax.Array:
    """An array on devices that later changes of ``array`` do not reach.

    jax takes the memory of a numpy array for its own on a CPU where that begins at a multiple
    of 64 bytes, and copies it elsewhere. ``jnp.array`` always copies, but holds the array a third
    time meanwhile.

    Args:
      array: on the host.
      place: where it goes; by default to the default device.
    """
    with jax.ensure_compile_time_eval():  # an array, also while something is traced
        return _on_device(array, place)


def _on_device(array: np.ndarray, place: jax.sharding.Sharding | None) -> jax.Array:
    placed = jax.device_put(array, place)
    on_host = (shard for shard in placed.addressable_shards if shard.device.platform == "cpu")
    if any(np.may_share_memory(np.asarray(shard.data), array) for shard in on_host):
        return jax.device_put(placed, place, may_alias=False)  # compiles nothing
    return placed


def x64_enabled() -> bool:
    """Whether jax computes in float64 here and now."""
    return jnp.result_type(float) == jnp.float64


def require_x64_for(dtype: Any, name: str) -> None:
    """Refuse float64 where jax would compute in float32.

    Args:
      dtype: of what is given, or asked for; anything but float64 passes.
      name: what to call it in the error.

    Raises:
      ValueError: float64 without x64.
    """
    if dtype == jnp.float64 and not x64_enabled():
        raise ValueError(
            f"{name} is float64 but jax runs without x64: "
            "call jax.config.update('jax_enable_x64', True) first, or use float32"
        )


def is_concrete(*values: object) -> bool:
    """Whether these are numbers, and not values that jax traces."""
    return not any(isinstance(value, jax.core.Tracer) for value in values)
