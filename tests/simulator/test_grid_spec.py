"""What a grid simulates, as one object or as keywords."""

import dataclasses
import inspect

import jax
import optax
import pytest

import sharpflow as sf
from sharpflow.simulator.grid.spec import GridArguments, GridSpec, with_signature

RATES = {"seeds": 0, "learning_rates": [0.1, 0.2], "weight_decays": 0.01}


@pytest.fixture(scope="module")
def problem():
    return sf.models.matrix_completion(shape=(6, 5), rank=1, width=3)


def test_a_specification_means_what_its_fields_mean_as_keywords(problem):
    spec = sf.simulator.GridSpec(problem, **RATES, num_steps=4, observables=["loss"])
    whole = sf.simulate_grid(spec)
    apart = sf.simulate_grid(problem, **RATES, num_steps=4, observables=["loss"])
    assert whole.drop_attrs().identical(apart.drop_attrs())
    longer = dataclasses.replace(spec, num_steps=6)
    assert sf.simulator.plan_grid(longer).updates == 12
    with pytest.raises(ValueError, match=r"whole GridSpec, got \['num_steps'\] beside it"):
        sf.simulate_grid(spec, num_steps=4)


def test_the_keywords_are_the_fields():
    fields = dataclasses.fields(sf.simulator.GridSpec)[1:]
    assert {field.name: field.type for field in fields} == GridArguments.__annotations__
    for function in (sf.simulate_grid, sf.simulator.plan_grid):
        parameters = inspect.signature(function).parameters
        assert {field.name for field in fields} <= parameters.keys()
        assert all(f"{field.name}" in function.__doc__ for field in fields)


@pytest.mark.parametrize("kept", [lambda text: text, inspect.cleandoc, lambda text: None])
def test_every_form_in_which_python_keeps_docstrings(kept, monkeypatch):
    """As written, up to Python 3.12; without its indentation, from 3.13; none, with ``-OO``."""

    def function(problem, **arguments):
        """Simulate.

        Args:
          problem: what to train.
          **arguments: the fields of ``GridSpec``.
        """

    function.__doc__ = kept(function.__doc__)
    monkeypatch.setattr(GridSpec, "__doc__", kept(GridSpec.__doc__))
    with_signature(function)
    assert "seeds" in inspect.signature(function).parameters
    if function.__doc__:
        assert "  seeds: integers" in function.__doc__
        assert "**arguments" not in function.__doc__


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"seed": 0}, "unexpected keyword argument 'seed'; did you mean \"seeds\"?"),
        ({"seeds": 0, "record_evry": 2}, 'did you mean "record_every"?'),
        ({"seeds": 0, "learning_rates": 0.1}, "needs the keyword arguments weight_decays"),
    ],
)
def test_a_keyword_that_is_none_or_is_missing_is_named(problem, keywords, message):
    with pytest.raises(TypeError) as caught:
        sf.simulate_grid(problem, **keywords)
    assert message in str(caught.value)


def test_a_typed_key_in_the_state_of_a_rule_is_refused_with_the_remedy(problem):
    def noisy(learning_rate, weight_decay):
        return optax.chain(optax.add_noise(0.01, 0.5, 0), sf.gdwd(learning_rate, weight_decay))

    with pytest.raises(ValueError, match=r"optimizer keeps a typed key .* call simulate"):
        sf.simulate_grid(problem, **RATES, num_steps=4, optimizer=noisy)
    params = problem.init(jax.random.key(0))
    with jax.numpy_dtype_promotion("standard"):
        run = sf.simulate(problem, params, noisy(0.1, 0.01), 4)
    assert run.status == sf.Status.SUCCESS
