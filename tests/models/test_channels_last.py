"""The convolution with derivatives of its own, against jax's derivatives of XLA's."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sharpflow.models.channels_last import Window, convolution

ONE = ((1, 1), (1, 1))
NUMBERS = ("NHWC", "HWIO", "NHWC")
on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="for CPUs alone")

# maps, kernel, window
CASES = {
    "3 × 3": ((5, 6), (3, 3), Window((1, 1), ONE)),
    "kernel larger than the map": ((2, 2), (3, 3), Window((1, 1), ONE)),
    "kernel larger than the map, dilated": (
        (2, 3),
        (4, 2),
        Window((1, 2), ((2, 1), (1, 1)), (2, 1), (1, 2)),
    ),
    "strides that leave a rest": ((6, 8), (3, 2), Window((2, 3), ((1, 1), (0, 0)))),
    "strides without a kernel to cover them": ((5, 5), (1, 1), Window((2, 2), ((0, 0), (0, 0)))),
    "an image that is cut": ((6, 5), (3, 3), Window((1, 1), ((1, -1), (0, 2)))),
    "dilated image and kernel": ((4, 5), (2, 3), Window((2, 1), ONE, (2, 3), (2, 1))),
}


def _arrays(maps, window, lanes=()):
    random = np.random.default_rng(0)
    shapes = (*lanes, 2, *maps, 3), (*lanes, *window, 3, 4)
    return tuple(jnp.asarray(random.normal(size=shape)) for shape in shapes)


def _by_jax(x, kernel, window):
    dilations = window.image_dilation, window.kernel_dilation
    return lax.conv_general_dilated(
        x, kernel, window.strides, window.padding, *dilations, dimension_numbers=NUMBERS
    )


def _loss(function, window, arrays):
    return jnp.sum(jnp.tanh(function(*arrays, window)))  # whose Hessian is full


def _close(found, expected):
    # sums of a few hundred products of order 1 in float64
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-11), found, expected)


@pytest.mark.parametrize("case", CASES)
def test_value_and_derivatives_of_all_kinds_are_those_of_jax(case):
    maps, kernel, window = CASES[case]
    at = _arrays(maps, kernel)
    along = jax.tree.map(jnp.cos, at)

    @partial(jax.jit, static_argnums=0)
    def found(function, at, along):
        loss = partial(_loss, function, window)
        slope = lambda at: jax.jvp(loss, (at,), (along,))[1]  # noqa: E731
        through = lambda at: jax.tree.reduce(  # noqa: E731
            jnp.add, jax.tree.map(jnp.vdot, jax.grad(loss)(at), along)
        )
        return {
            "value": function(*at, window),
            "slope": slope(at),
            "gradient": jax.grad(loss)(at),
            "forward over reverse": jax.jvp(jax.grad(loss), (at,), (along,))[1],
            "reverse over forward": jax.grad(slope)(at),
            "reverse over reverse": jax.grad(through)(at),
        }

    _close(found(convolution, at, along), found(_by_jax, at, along))


# Maps, kernel (p, q, c, f), padding, and how many columns are made at once. Beside 4 and 2 stand
# the reasons for less: columns that are no multiple, features and channels enough, a kernel of few
# columns, and one that is wider than what it makes.
FEW_CHANNELS = {
    "4 columns": ((3, 8), (3, 3, 2, 5), ONE, 4),
    "4 columns of a wide kernel": ((4, 7), (2, 5, 3, 15), ((0, 1), (2, 3)), 4),
    "2 columns": ((3, 6), (3, 3, 3, 5), ONE, 2),
    "2 columns of 16 features": ((3, 8), (3, 3, 16, 16), ONE, 2),
    "odd columns": ((3, 7), (3, 3, 3, 5), ONE, 1),
    "32 features": ((3, 8), (3, 3, 3, 32), ONE, 1),
    "17 channels": ((3, 8), (3, 3, 17, 5), ONE, 1),
    "a narrow kernel": ((3, 8), (3, 1, 2, 5), ((1, 1), (0, 0)), 1),
    "a kernel wider than the outputs": ((3, 8), (3, 5, 2, 5), ((1, 1), (0, 0)), 1),
}


@pytest.mark.parametrize("case", FEW_CHANNELS)
def test_columns_that_are_made_at_once_are_those_of_jax_to_the_third_derivative(case):
    maps, kernel, padding, num_columns = FEW_CHANNELS[case]
    window = Window((1, 1), padding)
    random = np.random.default_rng(0)
    at, along = (
        (random.normal(size=(2, *maps, kernel[2])), random.normal(size=kernel) / 10.0)
        for _ in range(2)
    )

    def derivatives(function, at, along):
        changes = jax.grad(partial(_loss, function, window))
        for _ in range(2):
            changes = partial(lambda f, at: jax.jvp(f, (at,), (along,)), changes)
        return function(*at, window), changes(at)

    compiled = jax.jit(derivatives, static_argnums=0)
    _close(compiled(convolution, at, along), compiled(_by_jax, at, along))
    program = jax.jit(partial(convolution, window=window)).lower(*at).as_text()
    assert re.findall(r"stride = \[1, (\d)\]", program) == [str(num_columns)]


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (2, 3)])
def test_lanes_are_those_of_jax(axes):
    x, kernel = _arrays((5, 6), (3, 3))
    window = Window((2, 1), ONE)

    def lanes(array, axis):
        if axis is None:
            return array
        return jnp.stack([array, jnp.sin(array), 2.0 * array], axis)

    @partial(jax.jit, static_argnums=0)
    def found(function, *arrays):
        gradient = jax.grad(partial(_loss, function, window))
        return (
            jax.vmap(lambda *pair: function(*pair, window), axes, out_axes=1)(*arrays),
            jax.vmap(lambda *pair: gradient(pair), axes)(*arrays),
        )

    arrays = lanes(x, axes[0]), lanes(kernel, axes[1])
    _close(found(convolution, *arrays), found(_by_jax, *arrays))


def _compiled_convolutions(function, maps):
    """Of a Hessian product within a loop."""
    x, kernel = (array.astype(jnp.float32) for array in _arrays(maps, (3, 3)))
    gradient = jax.grad(partial(_loss, function, Window((1, 1), ONE)))

    def products(at, along):
        step = lambda along, _: (jax.jvp(gradient, (at,), (along,))[1], None)  # noqa: E731
        return lax.scan(step, along, None, length=3)[0]

    program = jax.jit(products).lower((x, kernel), (x, kernel)).compile().as_text()
    return [line for line in program.splitlines() if " convolution(" in line]


@on_cpu
def test_in_a_loop_every_convolution_has_its_axes_in_the_order_that_xla_has_a_fast_one_for():
    orders = {
        function: {
            re.search(r"dim_labels=(\S+?),?(\s|$)", line)[1]
            for line in _compiled_convolutions(function, (6, 6))
        }
        for function in (convolution, _by_jax)
    }
    assert orders[convolution] == {"b01f_01io->b01f"}
    # if this fails, XLA has learned it, and this module may go
    assert len(orders[_by_jax]) > 1


@pytest.mark.parametrize("named", [None, "default", "highest", ("highest", "default")])
def test_the_precision_is_the_one_that_is_named_or_holds_where_it_is_traced(named):
    x, kernel = (array.astype(jnp.float32) for array in _arrays((5, 6), (3, 3)))
    with jax.default_matmul_precision("high"):
        ours = jax.jit(lambda *at: convolution(*at, Window((1, 1), ONE), named)).trace(x, kernel)
        theirs = jax.jit(
            lambda *at: lax.conv_general_dilated(
                *at, (1, 1), ONE, dimension_numbers=NUMBERS, precision=named
            )
        ).trace(x, kernel)
    precisions = [
        re.findall(r"#stablehlo<precision (\w+)>|precision = \[(.*?)\]", each.lower().as_text())
        for each in (ours, theirs)
    ]
    assert precisions[0]
    assert precisions[0] == precisions[1]
