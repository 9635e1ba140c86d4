"""The functions that a config names are found, refused in one line, and built into a grid."""

import inspect
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configs import MODULE, error_of, own, without
from malformed import TABLES, TOP, VALID, rendered

import sharpflow as sf
from sharpflow.experiments.config import ConfigError, load
from sharpflow.experiments.config.trust import beyond_presets
from sharpflow.simulator.observables import DEFAULT

DRAWN = "as jax.random.normal(key, shape, dtype) does, or with data[...].dtype for dtype"


def test_a_module_beside_the_config_or_in_the_working_directory_is_found(
    write, module, tmp_path, monkeypatch
):
    beside = load(write(rendered(own(module()), {})))
    assert beside.problem == f"{module()}:problem" and beside.folder == tmp_path
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    name = f"{module()}_elsewhere"
    (elsewhere / f"{name}.py").write_text(MODULE)
    path = write(rendered(own(name), {}))
    (line,) = error_of(path).mistakes
    assert line.startswith(f'problem: got "{name}:problem"; allowed a module in {tmp_path}, in the')
    monkeypatch.chdir(elsewhere)
    before = list(sys.path)
    assert load(path).problem == f"{name}:problem"
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def problem(:", "SyntaxError: "),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_with_the_reason(write, module, text, expected):
    (line,) = error_of(write(rendered(own(module(text)), {}))).mistakes
    assert "a module that can be imported; this one raised " + expected in line


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("{}:problm", 'allowed a function of {}, which has no "problm"; did you mean "problem"?'),
        ("{}:NUMBER", "allowed a function or a Problem; this is int"),
        ("{}:of_required", "f(); missing a required argument: 'x'"),
        ("{}_no:problem", 'there is no module "{}_no"'),
        ("{}.deeper:problem", 'there is no module "{}.deeper"'),
    ],
)
def test_a_problem_that_is_none_is_told(write, module, reference, expected):
    name = module()
    path = write(rendered(own(name, problem=f'"{reference.format(name)}"'), {}))
    (line,) = error_of(path).mistakes
    assert line.startswith(f'problem: got "{reference.format(name)}"; allowed ')
    assert expected.format(name) in line


@pytest.mark.parametrize("key", ["start", "optimizer"])
def test_start_and_optimizer_are_functions_of_what_the_grid_passes(write, module, key):
    name = module()
    (line,) = error_of(write(rendered(own(name, **{key: f'"{name}:leaving"'}), {}))).mistakes
    assert f"{key}: got" in line and "learning_rate, weight_decay); too many positional" in line
    (line,) = error_of(write(rendered(own(name, **{key: f'"{name}:READY"'}), {}))).mistakes
    assert line.endswith("allowed a function; this is Problem")


def test_an_axis_of_the_optimizer_holds_numbers(write, module):
    top = own(name := module(), optimizer=f'"{name}:optimizer"')
    (line,) = error_of(write(rendered(top, {"axes": {"momentum": '["a", "b"]'}}))).mistakes
    assert line.startswith('axes.momentum: got ["a", "b"]; allowed numbers, since the optimizer')


def test_a_function_of_any_keywords_takes_every_option_and_axis(write, module):
    top = own(name := module(), problem=f'"{name}:of_anything"')
    config = load(write(rendered(top, {"problem_options": {"a": "1", "b": '["c"]'}})))
    assert config.build()["problem"].init(jax.random.key(0)).shape == (2,)
    config = load(write(rendered(top, {"axes": {"anything": "[1, 2]"}})))
    assert config.build()["problem"](anything=1).init(jax.random.key(0)).shape == (1,)


def test_build_gives_the_grid_everything_that_is_set(write):
    config = load(write(VALID))
    arguments = config.build()
    assert isinstance(arguments.pop("problem"), sf.Problem)
    params = arguments.pop("start")(jax.random.key(0), 0.1, 0.01, angle=0.5)
    assert params.dtype == jnp.float32
    assert arguments == {
        "seeds": (0, 1),
        "learning_rates": (0.1, 0.2),
        "weight_decays": (0.001, 0.01),
        "axes": {"angle": (0.6, 1.2)},
        "num_steps": 2000,
        "record_every": 100,
        "observables": ("loss", "threshold", "sharpness_iterate"),
        "snapshot_every": 10,
        "group_width": 8,
        "lanes": "in_turn",
        "matmul_precision": "high",
        "optimizer": sf.gdwd,
    }


def test_what_a_config_leaves_out_has_a_default(write, module):
    config = load(write(rendered(own(module()) | {"seed": "4"}, {}).replace(b"observ", b"#")))
    assert (config.optimizer, config.dtype, config.seed) == ("gdwd", "float32", (4,))
    assert config.observables == DEFAULT
    left_out = {"tau", "record_every", "record_at", "num_records", "start", "axes", "group_width"}
    left_out |= {"lanes", "matmul_precision"}
    assert not left_out & config.build().keys()


def test_the_problem_gets_its_options_and_the_dtype(write, module):
    tables = {"problem_options": {"scale": "2.5", "widths": "[3, 4]"}}
    top = own(module(), dtype='"float64"')
    problem = load(write(rendered(top, tables))).build()["problem"]
    assert list(problem.metrics) == ["2.5 (3, 4) float64"]
    assert problem.init(jax.random.key(0)).dtype == jnp.float64


def test_a_problem_that_is_ready_is_taken_as_it_is(write, module):
    top = own(name := module(), problem=f'"{name}:READY"')
    problem = load(write(rendered(top, {}))).build()["problem"]
    assert list(problem.metrics) == ["7.0 (2,) float32"]
    (line,) = error_of(write(rendered(top, {"problem_options": {"scale": "1"}}))).mistakes
    assert line.startswith("problem_options.scale: got a keyword that nothing takes")


def test_a_problem_with_an_axis_is_left_to_the_grid(write, module):
    tables = {"problem_options": {"scale": "2.5"}, "axes": {"widths": "[[3], [4, 5]]"}}
    arguments = load(write(rendered(own(module()), tables))).build()
    assert arguments["axes"] == {"widths": ((3,), (4, 5))}
    problem = arguments["problem"](widths=(4, 5))
    assert list(problem.metrics) == ["2.5 (4, 5) float32"]
    assert list(inspect.signature(arguments["problem"]).parameters) == ["widths"]


def test_start_gets_the_dtype_and_the_options_that_it_names(write, module):
    name = module()
    tables = {"problem_options": {"scale": "2.5", "widths": "[3]"}, "axes": {"shift": "[0.5, 1]"}}
    start = load(write(rendered(own(name, start=f'"{name}:start"'), tables))).build()["start"]
    params = start(jax.random.key(0), 0.25, 0.5, shift=1.0)
    assert params.dtype == jnp.float32 and params[0] == 0.25 + 0.5 + 1.0 + 2.5


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        ("raising", "problem: {}:raising raised RuntimeError: no data here \\x1b[31m"),
        ("leaving", "problem: {}:leaving raised SystemExit: 3"),
        ("of_nothing", 'problem: got "{}:of_nothing"; allowed a function that returns a Problem,'),
        ("failing_init", "problem: the init of {}:failing_init raised KeyError: 'weights'"),
        (
            "in_double",
            'dtype: got "float32"; allowed "float64", which the init of {}:in_double draws; or let '
            f"that function take a keyword dtype, and init draw in it, {DRAWN}",
        ),
        (
            "of_data",
            'dtype: got "float32"; allowed "float64", which the init of {}:of_data draws although '
            f"that function takes dtype; or let init draw in it, {DRAWN}",
        ),
        (
            "DOUBLE",
            'dtype: got "float32"; allowed "float64", which the init of {}:DOUBLE draws; or let '
            f"init draw float32, {DRAWN}",
        ),
    ],
)
def test_what_is_wrong_with_the_function_of_the_user_is_one_line(write, module, problem, expected):
    name = module()
    path = write(rendered(own(name, problem=f'"{name}:{problem}"'), {}))
    with pytest.raises(ConfigError) as caught:
        load(path).build()
    (line,) = caught.value.mistakes
    assert line.startswith(expected.format(name)) and caught.value.source == str(path)


def test_a_function_that_the_grid_calls_fails_in_one_line_too(write, module):
    name = module()
    top = own(name, optimizer=f'"{name}:optimizer"', problem=f'"{name}:raising"')
    axes = {"momentum": "[0.5, 2.0]", "scale": "[1.0]"}
    arguments = load(write(rendered(top, {"axes": axes}))).build()
    assert callable(arguments["optimizer"](0.1, 0.0, momentum=0.5).update)
    with pytest.raises(ConfigError, match="optimizer raised ValueError: momentum is 2.0"):
        arguments["optimizer"](0.1, 0.0, momentum=2.0)
    with pytest.raises(ConfigError, match="raising raised RuntimeError: no data here"):
        arguments["problem"](scale=1.0)


def test_float64_needs_x64(write, module):
    config = load(write(rendered(own(module(), dtype='"float64"'), {})))
    with jax.enable_x64(False), pytest.raises(ConfigError, match="jax_enable_x64"):
        config.build()


@pytest.mark.parametrize("b", [None, 3.0])
def test_quasi_rmsprop_runs_without_weight_decay(write, b):
    top = without("weight_decay", "num_steps", "record_every") | {
        "optimizer": '"quasi_rmsprop"',
        "tau": "1.0",
    }
    axes = TABLES["axes"] | ({"b": f"[{b}]"} if b else {})
    arguments = load(write(rendered(top, TABLES | {"axes": axes}))).build()
    assert arguments["weight_decays"] == (0.0,)
    axis = {"b": b} if b else {}
    ours, grid = sf.quasi_rmsprop(0.1, b or 2.0), arguments["optimizer"](0.1, 0.0, **axis)
    w, gradient = jnp.array([0.6, 0.8]), jnp.array([0.8, -0.6])
    for one, other in zip(
        ours.update(gradient, ours.init(w), w), grid.update(gradient, grid.init(w), w), strict=True
    ):
        np.testing.assert_array_equal(
            jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(one)], dtype=float),
            jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(other)], dtype=float),
        )


@pytest.mark.parametrize(
    ("axes", "rate", "expected"),
    [
        ({"b": "[1.0, 9.0]"}, "0.4", "b * learning_rate**2: got 9.0 * 0.4**2 = 1.44; allowed"),
        ({}, "0.8", "b * learning_rate**2: got 2.0 * 0.8**2 = 1.28; allowed below 1"),
        ({}, "1e200", "b * learning_rate**2: got 2.0 * 1e+200**2 = inf; allowed below 1"),
        ({"b": "[0.0]"}, "0.1", "axes.b: got 0.0; allowed positive and finite"),
        ({"v0": "[1, -2]"}, "0.1", "axes.v0: got -2; allowed positive and finite"),
    ],
)
def test_quasi_rmsprop_keeps_its_average_positive(write, axes, rate, expected):
    top = without("weight_decay") | {"optimizer": '"quasi_rmsprop"', "learning_rate": rate}
    tables = TABLES | {"axes": TABLES["axes"] | axes}
    top["dtype"] = '"float64"'
    (line,) = error_of(write(rendered(top, tables))).mistakes
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("optimizer", "axes", "expected"),
    [
        ("momentum", {"beta": "[0.9, 1.0]"}, "axes.beta: got 1.0; allowed at least 0 and below 1"),
        ("sam", {"rho": "[0.0, 0.1]"}, "axes.rho: got 0.0; allowed positive and finite"),
        ("rmsprop", {"decay": "[1.5]"}, "axes.decay: got 1.5; allowed at least 0 and below 1"),
        ("rmsprop", {"epsilon": "[-1]"}, "axes.epsilon: got -1; allowed positive and finite"),
    ],
)
def test_what_a_rule_refuses_is_told_by_the_axis_that_gives_it(write, optimizer, axes, expected):
    top = without("weight_decay") | {"optimizer": f'"{optimizer}"'}
    tables = TABLES | {"axes": TABLES["axes"] | axes}
    (line,) = error_of(write(rendered(top, tables))).mistakes
    assert line == expected


@pytest.mark.parametrize("name", ["quasi_rmsprop", "rmsprop", "projected_gd"])
def test_a_rule_without_weight_decay_refuses_one_in_a_grid_too(write, module, name):
    top = own(module(), optimizer=f'"{name}"', weight_decay="[0.0, 0.1]")
    told = "got 0.1; allowed 0, since this rule has no weight decay"
    assert error_of(write(rendered(top, {}))).mistakes == (f"weight_decay: {told}",)
    arguments = load(write(rendered(top | {"weight_decay": "0"}, {}))).build()
    with pytest.raises(ValueError, match="weight_decay must be 0, since this rule has no"):
        sf.simulate_grid(**(arguments | {"weight_decays": (0.0, 0.1)}))


@pytest.mark.parametrize("name", ["momentum", "sam", "rmsprop"])
def test_weight_decay_may_be_left_out_where_the_rule_has_a_default(write, module, name):
    top = {key: value for key, value in own(module()).items() if key != "weight_decay"}
    assert load(write(rendered(top | {"optimizer": f'"{name}"'}, {}))).weight_decay == (0.0,)
    (line,) = error_of(write(rendered(top, {}))).mistakes
    assert line.startswith("weight_decay: got nothing; allowed a finite number of at least 0")


@pytest.mark.parametrize(
    ("name", "axes", "ours"),
    [
        ("momentum", {"beta": 0.5}, lambda: sf.simulator.momentum(0.1, 0.2, beta=0.5)),
        ("sam", {"rho": 0.3}, lambda: sf.simulator.sam(0.1, 0.2, rho=0.3)),
        ("rmsprop", {"decay": 0.9}, lambda: sf.simulator.rmsprop(0.1, 0.9)),
        ("projected_gd", {}, lambda: sf.simulator.projected_gd(0.1)),
    ],
)
def test_other_rules_are_named_in_a_config(write, name, axes, ours):
    decay = 0.2 if name in ("momentum", "sam") else 0.0
    top = TOP | {"optimizer": f'"{name}"', "learning_rate": "0.1", "weight_decay": f"{decay}"}
    tables = TABLES | {"axes": TABLES["axes"] | {key: f"[{value}]" for key, value in axes.items()}}
    grid = load(write(rendered(top, tables))).build()["optimizer"](0.1, decay, **axes)
    w = jnp.array([0.6, 0.8])
    for found, expected in zip(
        jax.tree.leaves(grid.init(w)), jax.tree.leaves(ours().init(w)), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["rmsprop", "projected_gd", "sam"])
def test_a_rule_without_a_clock_refuses_a_flow_time(write, name):
    top = without("num_steps", "record_every") | {"optimizer": f'"{name}"', "tau": "1.0"}
    top |= {"weight_decay": "0.0"} if name != "sam" else {}
    (line,) = error_of(write(rendered(top, TABLES))).mistakes
    assert line.startswith("tau: got 1.0; allowed a flow time that every point reaches, but the ")
    assert line.endswith(": give num_steps instead")


def test_an_observable_of_ones_own_is_named_by_its_module_and_function(write, module):
    name = module()
    observables = f'["loss", "{name}:LOSS", "{name}:tilt"]'
    config = load(write(rendered(own(name, observables=observables), {})))
    assert config.observables == ("loss", f"{name}:LOSS", f"{name}:tilt")
    arguments = config.build()
    assert [getattr(one, "name", one) for one in arguments["observables"]] == [
        *("loss", "twice", "tilt")
    ]
    data = sf.simulate_grid(**arguments)
    np.testing.assert_allclose(data["twice"], 2.0 * data["loss"], rtol=1e-6)
    assert "tilt" in data
    # a folder that somebody sent calls them as little as its problem
    lines = beyond_presets(config)
    assert f"observables = '{name}:tilt'" in lines and not any("'loss'" in line for line in lines)
    assert load(write(config.to_toml())) == config


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("{}:tlit", 'which has no "tlit"; did you mean "tilt"?'),
        ("{}:NUMBER", "allowed a function or an Observable; this is int"),
        ("{}:of_required", "f(); missing a required argument: 'x'"),
        ("los", 'or "module:function", or a list of those; did you mean "loss"?'),
    ],
)
def test_an_observable_that_is_none_is_told(write, module, reference, expected):
    name = module()
    path = write(rendered(own(name, observables=f'"{reference.format(name)}"'), {}))
    (line,) = error_of(path).mistakes
    assert line.startswith(f'observables: got "{reference.format(name)}"; allowed '), line
    assert expected in line


def test_a_function_of_an_observable_that_returns_something_else_is_told(write, module):
    name = module()
    config = load(write(rendered(own(name, observables=f'"{name}:of_nothing"'), {})))
    with pytest.raises(ConfigError, match="allowed a function that returns an Observable, not int"):
        config.build()
