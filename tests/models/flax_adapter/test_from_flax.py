"""Flax modules as Problems: which are refused, and that the remedies named do mend them."""

import ast
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sharpflow.models import MLP, check_scale_invariance, from_flax

TRAINING = {"train": True}


@pytest.fixture(autouse=True)
def _promotion_that_flax_needs():
    """Flax's own layers mix float32 parameters with float64 inputs."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    return random.normal(size=(12, 4)), np.arange(12) % 3


class Stock(nn.Module):
    """What people write: biases, affine batch norm, a trained last layer."""

    epsilon: float = 1e-5
    num_outputs: int = 3

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(8)(x)
        x = nn.BatchNorm(use_running_average=not train, epsilon=self.epsilon)(x)
        return nn.Dense(self.num_outputs)(nn.relu(x))


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(x))


class Drawn(nn.Module):
    """One kernel by each kind of drawing; an array among the attributes takes its hash."""

    factor: np.ndarray | float = 1.0

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(33, kernel_init=nn.initializers.orthogonal())(x * self.factor))
        x = nn.tanh(nn.Dense(33, kernel_init=nn.initializers.he_normal())(x))  # truncated
        x = nn.tanh(nn.Dense(33, kernel_init=nn.initializers.normal(0.3))(x))
        return nn.Dense(3, kernel_init=nn.initializers.glorot_uniform())(x)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("factor", [2.0, np.full((1, 4), 2.0)], ids=["a hash", "no hash"])
def test_parameters_are_those_that_the_module_draws(data, factor):
    """Bit by bit where they are drawn alone, hardly optimized, or in a program of the user's."""
    module, key = Drawn(factor), jax.random.key(5)
    problem = from_flax(module, *data)
    alone, within = problem.init(key), jax.jit(problem.init)(key)
    expected = jax.tree.leaves(module.init(key, jnp.asarray(data[0]))["params"])
    for found, other, theirs in zip(*map(jax.tree.leaves, (alone, within)), expected, strict=True):
        np.testing.assert_array_equal(found, other)
        np.testing.assert_allclose(found, theirs, rtol=1e-6, atol=1e-7)


def _shaken(problem):
    """Params at which no bias is zero and no scale is one."""
    params = problem.init(jax.random.key(0))
    random = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.3 * random.normal(size=leaf.shape), leaf.dtype), params
    )


def _refusal(problem):
    with pytest.raises(ValueError, match="not invariant to the scale") as caught:
        check_scale_invariance(problem, _shaken(problem))
    return str(caught.value)


def _proposed(message):
    return ast.literal_eval(re.search(r"fixed=(\[.*?\])", message).group(1))


def test_a_stock_network_is_refused_and_every_breaking_parameter_is_named(data):
    problem = from_flax(Stock(epsilon=0.0), *data, apply_kwargs=TRAINING)
    # batch norm undoes the scale of what stands before it, and of nothing else
    assert set(_proposed(_refusal(problem))) == {
        "BatchNorm_0/scale",
        "BatchNorm_0/bias",
        "Dense_1/kernel",
        "Dense_1/bias",
    }


def test_holding_constant_what_the_message_names_makes_a_stock_network_invariant(data):
    problem = from_flax(Stock(epsilon=0.0), *data, apply_kwargs=TRAINING)
    fixed = _proposed(_refusal(problem))
    mended = from_flax(Stock(epsilon=0.0), *data, apply_kwargs=TRAINING, fixed=fixed)
    change = check_scale_invariance(mended, _shaken(mended))
    assert change < 50 * np.finfo(float).eps


def test_the_epsilon_of_batch_norm_is_named_in_float64_and_passes_in_float32(data):
    double = from_flax(Stock(), *data, apply_kwargs=TRAINING)
    message = _refusal(double)
    assert re.search(r"slightly on the scale of Dense_0/kernel.*epsilon.* to 0", message)
    fixed = _proposed(message)
    still = from_flax(Stock(), *data, apply_kwargs=TRAINING, fixed=fixed)
    assert "fixed=" not in _refusal(still)

    single = from_flax(Stock(), *data, apply_kwargs=TRAINING, fixed=fixed, dtype=np.float32)
    check_scale_invariance(single, _shaken(single))


def test_fixed_parameters_leave_the_pytree_and_keep_the_values_of_their_seed(data):
    fixed = ("BatchNorm_0", "Dense_1")

    def problem(seed):
        return from_flax(Stock(), *data, apply_kwargs=TRAINING, fixed=fixed, fixed_seed=seed)

    params = problem(0).init(jax.random.key(3))
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes == {"Dense_0": {"kernel": (4, 8), "bias": (8,)}}

    whole = from_flax(Stock(), *data, apply_kwargs=TRAINING)
    merged = whole.init(jax.random.key(0)) | params
    np.testing.assert_array_equal(problem(0).residual(params), whole.residual(merged))
    assert not np.allclose(problem(1).residual(params), whole.residual(merged))


def test_a_name_in_fixed_is_a_whole_path_component(data):
    with pytest.raises(ValueError, match="fixed names 'Dense'.*Dense_0/kernel"):
        from_flax(Stock(), *data, apply_kwargs=TRAINING, fixed=("Dense",))


def test_fixing_everything_is_refused(data):
    everything = ("Dense_0", "BatchNorm_0", "Dense_1")
    with pytest.raises(ValueError, match="fixed leaves nothing to train"):
        from_flax(Stock(), *data, apply_kwargs=TRAINING, fixed=everything)


def test_dropout_is_refused_and_passes_where_it_is_switched_off(data):
    with pytest.raises(ValueError, match="dropout.*apply_kwargs"):
        from_flax(Dropping(), *data, apply_kwargs=TRAINING)
    from_flax(Dropping(), *data, apply_kwargs={"train": False})


def test_outputs_that_do_not_match_the_targets_are_refused(data):
    with pytest.raises(ValueError, match=r"outputs of shape \(12, 3\).*got \(12, 5\)"):
        from_flax(Stock(num_outputs=5), *data, apply_kwargs=TRAINING)


@pytest.mark.parametrize("loss", ["hinge", jnp.abs])
def test_an_unknown_loss_is_refused_with_the_way_to_one_of_the_users(data, loss):
    with pytest.raises(ValueError, match="loss must be one of.*mse.*make a Problem of outputs"):
        from_flax(Stock(), *data, loss, apply_kwargs=TRAINING)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.full((12, 4), np.nan), "x has NaN or infinite"),
        (np.ones(12), r"x must have shape \(n, \.\.\.\)"),
        (np.ones((7, 4)), "y must have 7 rows"),
        (np.full((12, 4), "a"), "x must be real numbers"),
    ],
)
def test_unusable_inputs_are_refused(data, x, message):
    with pytest.raises(ValueError, match=message):
        from_flax(Stock(), x, data[1], apply_kwargs=TRAINING)


def test_a_module_without_normalization_or_state_is_its_own_function(data):
    x, labels = data
    problem = from_flax(nn.Dense(3), x, labels, scale_invariant=False)
    params = problem.init(jax.random.key(0))
    one_hot = np.eye(3)[labels]
    targets = (one_hot - one_hot.mean(axis=0)) / one_hot.std(axis=0)
    expected = x @ np.asarray(params["kernel"]) + np.asarray(params["bias"]) - targets
    np.testing.assert_allclose(problem.residual(params), expected.ravel() / np.sqrt(12), atol=1e-14)


@pytest.mark.parametrize(
    ("normalization", "head", "expected"),
    [("batch", "normalized", True), ("none", "normalized", False), ("batch", "trained", False)],
)
def test_a_network_of_the_package_tells_by_itself_whether_it_is_an_ablation(
    data, normalization, head, expected
):
    module = MLP(normalization=normalization, head=head, widths=(4, 3))
    problem = from_flax(module, *data)
    assert problem.scale_invariant is expected
    assert from_flax(module, *data, scale_invariant=not expected).scale_invariant is not expected
    try:
        invariant = check_scale_invariance(problem, problem.init(jax.random.key(0))) < 1e-8
    except ValueError:
        invariant = False
    assert invariant is expected


class Shuffled(nn.Module):
    """Constants that choose and count, as positions, masks and steps do."""

    @nn.compact
    def __call__(self, x):
        order = self.variable("constants", "order", lambda: jnp.arange(4)[::-1])
        keep = self.variable("constants", "keep", lambda: jnp.arange(4) != 2)
        scale = self.variable("constants", "scale", lambda: jnp.full((), 2.0, jnp.float32))
        shown = jnp.where(keep.value, x[:, order.value], 0.0)
        return nn.Dense(3, use_bias=False)(scale.value * shown)


def test_constants_that_are_integers_or_booleans_stay_what_they_are(data):
    x, labels = data
    problem = from_flax(Shuffled(), x, labels, scale_invariant=False)
    constants = problem.data.constants["constants"]
    kinds = {name: str(leaf.dtype) for name, leaf in constants.items()}
    assert kinds == {"order": "int64", "keep": "bool", "scale": "float64"}
    kernel = np.asarray(problem.init(jax.random.key(0))["Dense_0"]["kernel"])
    shown = x[:, ::-1] * np.array([1.0, 1.0, 0.0, 1.0])
    residual = np.asarray(problem.residual({"Dense_0": {"kernel": kernel}})).reshape(12, 3)
    expected = 2.0 * shown @ kernel - np.asarray(problem.data.targets)
    np.testing.assert_allclose(residual * np.sqrt(12), expected, atol=1e-14)


class Bag(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        embedded = nn.Embed(11, 8, name="table")(tokens).mean(1)
        normal = nn.BatchNorm(use_running_average=False, use_scale=False, use_bias=False)
        return nn.Dense(3, use_bias=False, name="head")(normal(embedded))


class NnxBag(nnx.Module):
    def __init__(self, rngs):
        self.table = nnx.Embed(11, 8, dtype=float, rngs=rngs)  # float32 otherwise
        self.norm = nnx.BatchNorm(8, use_scale=False, use_bias=False, rngs=rngs)
        self.head = nnx.Linear(8, 3, use_bias=False, rngs=rngs)

    def __call__(self, tokens):
        return self.head(self.norm(self.table(tokens).mean(1)))


@pytest.mark.parametrize(
    ("module", "options"),
    [(Bag(), {}), (Bag(), {"micro_batch": 5}), (lambda rngs: NnxBag(rngs), {})],
    ids=["linen", "micro-batches", "nnx"],
)
def test_tokens_stay_integers_in_training_and_test(module, options):
    tokens = np.random.default_rng(0).integers(0, 11, (12, 5))
    labels = np.arange(12) % 3
    problem = from_flax(module, tokens, labels, test=(tokens, labels), **options)
    params = problem.init(jax.random.key(0))
    table, head = np.asarray(params["table"]["embedding"]), np.asarray(params["head"]["kernel"])
    assert table.dtype == np.float64
    hidden = table[tokens].mean(axis=1)
    hidden = (hidden - hidden.mean(axis=0)) / np.sqrt(hidden.var(axis=0) + 1e-5)
    one_hot = np.eye(3)[labels]
    targets = (one_hot - one_hot.mean(axis=0)) / one_hot.std(axis=0)
    expected = 0.5 * np.mean(np.sum((hidden @ head - targets) ** 2, axis=1))
    loss, gradient = jax.value_and_grad(problem.loss_value)(params)
    np.testing.assert_allclose(loss, expected, rtol=1e-10)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(problem.metrics["test_error"](params), 2 * expected / 3, rtol=1e-10)


def test_integers_that_do_not_fit_are_refused_and_a_network_of_ours_computes_with_them(data):
    tokens, labels = np.arange(60).reshape(12, 5), data[1]
    with pytest.raises(ValueError, match="test x must be integers, as the training inputs"):
        from_flax(Bag(), tokens % 11, labels, test=(0.5 * tokens, labels))
    with jax.enable_x64(False), pytest.raises(ValueError, match="x must hold integers.*int32"):
        from_flax(Bag(), tokens + 2**40, labels)
    found, expected = (
        from_flax(MLP(widths=(4, 3)), x, labels) for x in (tokens, tokens.astype(float))
    )
    params = found.init(jax.random.key(0))
    assert found.loss_value(params) == expected.loss_value(params)


class Several(nn.Module):
    kind: type = tuple

    @nn.compact
    def __call__(self, x):
        outputs = nn.Dense(3)(x)
        return {tuple: (outputs, x), dict: {"logits": outputs}, float: jnp.sum(outputs)}[self.kind]


@pytest.mark.parametrize(
    ("kind", "named"), [(tuple, r"tuple \(\(12, 3\), \(12, 4\)\)"), (dict, "dict.*logits"),
                        (float, r"\(\): wrap it")],
)  # fmt: skip
def test_outputs_that_are_no_array_of_rows_are_refused_by_name(data, kind, named):
    with pytest.raises(ValueError, match=r"module must give one array of outputs.*got.*" + named):
        from_flax(Several(kind), *data)


@pytest.mark.parametrize(
    ("module", "apply_kwargs", "named"),
    [
        (Stock(), {}, r"missing 1 required positional argument: 'train'"),
        (Bag(), {"train": True}, "unexpected.*'train'"),
        (nn.Sequential([nn.Dense(4), nn.Dense(3)]), {"train": True}, "unexpected.*'train'"),
        (lambda rngs: NnxBag(rngs), {"train": True}, "unexpected.*'train'"),
    ],
)
def test_keywords_that_a_module_lacks_or_does_not_take_are_named(data, module, apply_kwargs, named):
    tokens = np.arange(60).reshape(12, 5) % 11
    inputs = data[0] if isinstance(module, (Stock, nn.Sequential)) else tokens
    with pytest.raises(ValueError, match=f"module cannot be called with x and apply_kw.*{named}"):
        from_flax(module, inputs, data[1], apply_kwargs=apply_kwargs)


def test_a_mistake_within_a_module_is_its_own(data):
    class Broken(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x) + "x"

    with pytest.raises(TypeError, match="unsupported operand|add"):
        from_flax(Broken(), *data)
