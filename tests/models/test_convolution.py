"""Convolutions that are fast on a CPU, against XLA's own with the derivatives of jax."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from sharpflow.models import from_flax
from sharpflow.models.convolution import conv_general_dilated, convolve

CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")
on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="for CPUs alone")


def _xla(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=CHANNELS_LAST)


def _relative(found, expected):
    difference = np.linalg.norm(np.asarray(found, float) - np.asarray(expected, float))
    return difference / np.linalg.norm(np.asarray(expected, float))


def _arrays(dtype, image=(3, 9, 11, 4), kernel=(3, 3, 4, 5)):
    random = np.random.default_rng(0)
    return tuple(
        jnp.asarray(random.normal(size=shape), dtype) for shape in (image, kernel, image, kernel)
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-13)])
@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [
        ((3, 3), (1, 1), ((1, 1), (1, 1))),
        ((3, 3), (2, 2), ((1, 1), (1, 1))),
        ((1, 1), (1, 1), ((0, 0), (0, 0))),
        ((2, 5), (3, 1), ((0, 2), (1, 0))),
    ],
)
def test_value_gradient_and_hessian_product_are_those_of_xla(
    window, strides, padding, dtype, tolerance
):
    x, kernel, dx, dkernel = _arrays(dtype, kernel=(*window, 4, 5))
    ours, theirs = (lambda x, kernel, f=f: f(x, kernel, strides, padding) for f in (convolve, _xla))

    @partial(jax.jit, static_argnums=0)
    def derivatives(convolution, at, along):
        def loss(arrays):
            convolved = convolution(*arrays)
            return jnp.sum(jnp.tanh(convolved)), convolved  # curved in both

        gradient, product, convolved = jax.jvp(
            jax.grad(loss, has_aux=True), (at,), (along,), has_aux=True
        )
        return [convolved, *gradient, *product]

    arrays = (x, kernel), (dx, dkernel)
    for found, expected in zip(
        derivatives(ours, *arrays), derivatives(theirs, *arrays), strict=True
    ):
        assert _relative(found, expected) <= tolerance


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("size", [8, 9])
def test_named_paddings_are_those_of_xla(size, padding):
    x, kernel, _, _ = _arrays("float64", image=(2, size, size, 4))
    ours = conv_general_dilated(x, kernel, (2, 2), padding, dimension_numbers=CHANNELS_LAST)
    assert _relative(ours, _xla(x, kernel, (2, 2), padding)) <= 1e-13


def _convolutions(function, *arrays):
    return str(jax.make_jaxpr(function)(*arrays)).count("conv_general_dilated")


@on_cpu
@pytest.mark.parametrize(
    ("dtype", "product", "tolerance"),
    [("float32", "channels_last_convolution", 1e-5), ("float64", "dot_general", 1e-13)],
)
def test_flax_layers_go_by_our_convolution_on_a_cpu_and_by_that_of_jax_elsewhere(
    monkeypatch, dtype, product, tolerance
):
    options = {"dtype": dtype, "param_dtype": dtype}
    layer = nn.Conv(5, (3, 3), conv_general_dilated=conv_general_dilated, **options)
    x = _arrays(dtype)[0]
    variables = layer.init(jax.random.key(0), x)
    assert _convolutions(layer.apply, variables, x) == 0
    assert product in str(jax.make_jaxpr(layer.apply)(variables, x))
    fast = layer.apply(variables, x)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert _convolutions(layer.apply, variables, x) == 1
    assert _relative(fast, layer.apply(variables, x)) <= tolerance


@on_cpu
@pytest.mark.parametrize(
    ("size", "padding", "goes"),
    [(2, "SAME", False), (3, "SAME", True), (4, "VALID", False), (5, "VALID", True)],
)
def test_no_derivative_is_a_convolution_with_a_kernel_larger_than_the_image(size, padding, goes):
    x, kernel, _, _ = _arrays("float32", image=(2, size, size, 4))

    def loss(x, kernel):
        y = conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=CHANNELS_LAST)
        return jnp.sum(jnp.square(y))

    program = jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, kernel)
    sizes = [
        (equation.invars[0].aval.shape[1], equation.invars[1].aval.shape[0])
        for equation in program.eqns
        if equation.primitive.name == "channels_last_convolution"
    ]
    assert bool(sizes) == goes
    assert all(kernel <= image for image, kernel in sizes)


@on_cpu
def test_the_default_device_of_the_caller_decides(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x, kernel, _, _ = _arrays("float32")

    def convolution(x, kernel):
        return conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=CHANNELS_LAST)

    assert _convolutions(convolution, x, kernel) == 1
    with jax.default_device(jax.devices("cpu")[0]):
        assert _convolutions(convolution, x, kernel) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"feature_group_count": 2},
        {"lhs_dilation": (2, 1)},
        {"rhs_dilation": (1, 2)},
        {"dimension_numbers": ("NCHW", "HWIO", "NHWC")},
    ],
)
def test_what_is_no_plain_convolution_is_left_to_xla(options):
    image = (2, 4, 8, 8) if "dimension_numbers" in options else (2, 8, 8, 4)
    kernel = (3, 3, 4 // options.get("feature_group_count", 1), 6)
    x, kernel, _, _ = _arrays("float64", image, kernel)
    options = {"dimension_numbers": CHANNELS_LAST} | options
    found = conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), **options)
    expected = lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), **options)
    np.testing.assert_array_equal(found, expected)


class _Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Conv(3, (3, 3), param_dtype=x.dtype)(x).mean(axis=(1, 2))


class _Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 3, (3, 3), rngs=rngs)

    def __call__(self, x):
        return self.conv(x).mean(axis=(1, 2))


@on_cpu
@pytest.mark.parametrize("module", [_Linen(), _Nnx])
def test_convolutions_of_the_users_modules_go_by_ours(module, monkeypatch):
    x = np.random.default_rng(0).normal(size=(6, 5, 5, 2)).astype(np.float32)
    module = module if isinstance(module, nn.Module) else lambda rngs: _Nnx(rngs)
    make = partial(from_flax, module, x, np.arange(6) % 3)
    problem = make()
    params = problem.init(jax.random.key(0))
    assert _convolutions(problem.loss_value, params) == 0
    fast = problem.loss_value(params)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jax.clear_caches()  # equal modules share what was traced
    other = make()
    assert _convolutions(other.loss_value, params) == 1
    np.testing.assert_allclose(fast, other.loss_value(params), rtol=1e-5)


@on_cpu
def test_derivatives_within_shard_map_are_those_of_jax() -> None:
    mesh = Mesh(np.array(jax.devices()[:1]), ("b",), axis_types=(AxisType.Auto,))
    x, kernel, *_ = _arrays("float32")

    def gradients(convolution):
        def loss(x, kernel):
            y = convolution(x, kernel, (1, 1), "SAME", dimension_numbers=CHANNELS_LAST)
            return lax.psum(jnp.sum(jnp.square(y)), "b")

        spread = jax.shard_map(loss, mesh=mesh, in_specs=(P("b"), P()), out_specs=P())
        return jax.jit(jax.grad(spread, argnums=(0, 1)))(x, kernel)

    expected = gradients(lax.conv_general_dilated)
    for ours, theirs in zip(gradients(conv_general_dilated), expected, strict=True):
        assert _relative(ours, theirs) < 1e-5


@on_cpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("image", "window", "padding"),
    [((3, 3), (5, 5), "VALID"), ((6, 5), (3, 3), ((-1, -1), (0, 0)))],
)
def test_what_products_cannot_do_goes_by_jax(image, window, padding, dtype) -> None:
    x, kernel, *_ = _arrays(dtype, image=(2, *image, 4), kernel=(*window, 4, 5))
    ours, theirs = (
        convolution(x, kernel, (1, 1), padding, dimension_numbers=CHANNELS_LAST)
        for convolution in (conv_general_dilated, lax.conv_general_dilated)
    )
    np.testing.assert_array_equal(ours, theirs)


@on_cpu
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sums_in_half_precision_are_rounded_once(dtype) -> None:
    x, kernel, *_ = _arrays("float32", image=(2, 6, 6, 32), kernel=(3, 3, 32, 5))
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    exact = _xla(x.astype("float32"), kernel.astype("float32"), (1, 1), ((1, 1), (1, 1)))
    found = convolve(x, kernel, (1, 1), ((1, 1), (1, 1)))
    assert found.dtype == dtype
    rounding = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(found.astype("float32"), exact, rtol=rounding, atol=1e-5)


@on_cpu
@pytest.mark.parametrize(
    ("channels", "strides", "padding"),
    [(3, (1, 1), "SAME"), (4, (1,), "SAME"), (4, (1, 1), ((1, 1),))],
)
def test_mistakes_are_refused_while_tracing_as_by_jax(channels, strides, padding) -> None:
    x, kernel, *_ = _arrays("float32", kernel=(3, 3, channels, 5))
    messages = []
    for convolution in (conv_general_dilated, lax.conv_general_dilated):
        with pytest.raises((ValueError, TypeError)) as raised:
            jax.eval_shape(
                lambda x, k, f=convolution: f(
                    x, k, strides, padding, dimension_numbers=CHANNELS_LAST
                ),
                x,
                kernel,
            )
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
