"""A problem at a lower precision has the curvature, flow and records of the problem itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled_functions import captured_chunk

import sharpflow as sf
from sharpflow.models.precision import imprecise_products
from sharpflow.simulator.loop import run_chunk
from sharpflow.theory.curvature import hessian_vector_product

RANDOM = np.random.default_rng(0)
X, Y = (RANDOM.normal(size=shape).astype(np.float32) for shape in ((3, 5), (3,)))
W = jnp.asarray(RANDOM.normal(size=5).astype(np.float32))


def _init(key):
    return jax.random.normal(key, (5,), np.float32)


def _residual(w, data):
    return data["x"] @ (w / jnp.linalg.norm(w)) - data["y"]


def _of_products(w, data):
    problem, scale = data
    return problem.loss_value(w * scale)


FULL = sf.Problem(_init, residual=_residual, data={"x": X, "y": Y})
LOWERED = FULL.at_precision("default")
RULE = sf.gdwd(0.05, 0.01)

FUNCTIONS = {
    "dense eigenpairs": lambda q, w: sf.theory.top_eigenpairs(q, w, k=1).values,
    "eigenpairs": lambda q, w: sf.theory.top_eigenpairs(q, w, k=1, method="lanczos").values,
    "a product": lambda q, w: hessian_vector_product(q, w)(w),
    "spherical sharpness": lambda q, w: sf.theory.spherical_sharpness(q, w)[0],
    "a point of the manifold": lambda q, w: sf.theory.retract_with_status(q, w),
    "a tangent projection": lambda q, w: sf.theory.tangent_projection(q, w, w),
    "a Fisher matrix": lambda q, w: sf.theory.fisher_spectrum(q.residual, w).values,
    "a problem of a problem": lambda q, w: (
        sf.theory.top_eigenpairs(
            sf.Problem(_init, loss=_of_products, data=(q, w)).at_precision("default"), w
        ).values
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_theory_has_true_float32_whatever_the_precision_of_a_problem(name):
    assert imprecise_products(LOWERED.loss_value, W) == 1, "the problem itself is at its precision"
    assert imprecise_products(lambda w: FUNCTIONS[name](LOWERED, w), W) == 0


@pytest.mark.parametrize("precision", ["highest", "high", "default"])
def test_a_simulation_has_the_precision_that_it_is_told_and_its_records_the_highest(precision):
    def imprecise(problem, *observables):
        chunk = captured_chunk(problem, W, RULE, observables, matmul_precision=precision)
        return imprecise_products(run_chunk, *chunk.args)

    of_steps = imprecise(FULL, "loss")
    assert (of_steps == 0) is (precision == "highest")
    recorded = "loss", "hessian_sharpness", "sharpness_iterate", "sharpness_manifold"
    assert imprecise(LOWERED, *recorded) == of_steps


def test_what_a_simulation_used_is_kept():
    run = sf.simulate(LOWERED, W, RULE, 2, observables=["loss"], matmul_precision="high")
    assert run.to_dataset().attrs["matmul_precision"] == "high"
