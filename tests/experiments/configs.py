"""A module of the user, and configs that name it, for the tests of what reads them."""

import pytest
from malformed import TOP

from sharpflow.experiments.config import ConfigError, load

MODULE = """
import jax
import jax.numpy as jnp
import optax
import sharpflow as sf


def problem(scale=1.0, widths=(2,), dtype=None):
    return sf.Problem(
        init=lambda key: jax.random.normal(key, widths, dtype),
        loss=lambda w: scale * jnp.sum(w**2),
        metrics={f"{scale!r} {widths!r} {dtype}": jnp.sum},
    )


def of_anything(**options):
    return problem(widths=(len(options),), dtype="float32")


def in_double(scale=1.0):
    return problem(scale, dtype="float64")


def of_data(dtype=None):
    def init(key, data):
        return jax.random.normal(key, data.shape)

    def loss(w, data):
        return jnp.sum((w - data) ** 2)

    return sf.Problem(init=init, loss=loss, data=jnp.ones(2, dtype), scale_invariant=False)


LOSS = sf.simulator.Observable("twice", lambda moment: 2.0 * moment.loss)


def tilt():
    return sf.simulator.Observable("tilt", lambda moment: moment.params[0] / moment.params[1])


def of_required(x, scale=1.0):
    return problem(scale)


def raising(scale=1.0):
    raise RuntimeError("no data\\nhere \\x1b[31m")


def leaving():
    raise SystemExit(3)


def of_nothing():
    return 42


def failing_init():
    def init(key):
        raise KeyError("weights")

    return sf.Problem(init=init, loss=jnp.sum)


def start(key, learning_rate, weight_decay, *, shift=0.0, scale=5.0, dtype=None):
    return jnp.full((2,), learning_rate + weight_decay + shift + scale, dtype)


def optimizer(learning_rate, weight_decay, momentum=0.9):
    if momentum > 1:
        raise ValueError(f"momentum is {momentum}")
    return optax.sgd(learning_rate, momentum)


READY = problem(7.0, dtype="float32")
DOUBLE = problem(7.0, dtype="float64")
NUMBER = 3
"""


def own(name, **changes):
    """A config of the user's own problem, in the module of this name.

    The values of changes are texts of TOML.
    """
    top = without(
        "start", "record_every", "snapshot_every", "group_width", "lanes", "matmul_precision"
    )
    return top | {"problem": f'"{name}:problem"', "num_steps": "10"} | changes


def without(*keys):
    """The valid config without some of its keys."""
    return {key: value for key, value in TOP.items() if key not in keys}


def error_of(source, overrides=()):
    """What ``load`` refuses a config with."""
    with pytest.raises(ConfigError) as caught:
        load(source, overrides)
    return caught.value
