"""A config is what its layers say, and everything that is wrong with one is told at once."""

import dataclasses
import importlib.util
import inspect
import itertools
import re
import sys
import textwrap
import tomllib
from pathlib import Path

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import sharpflow as sf
from sharpflow.experiments import problems
from sharpflow.experiments.config import ConfigError, differences, load, presets
from sharpflow.experiments.config.toml import toml_value
from sharpflow.simulator.observables import BUILT_IN, DEFAULT, RUNNING
from sharpflow.theory.exact import angle_to_span


def _sibling(name):
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


malformed = _sibling("malformed")
TOP, TABLES, rendered = malformed.TOP, malformed.TABLES, malformed.rendered

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
NUMBER = 3
"""


@pytest.fixture
def write(tmp_path):
    """Write a config and return its path."""

    def written(data):
        path = tmp_path / "config.toml"
        path.write_bytes(data if isinstance(data, bytes) else textwrap.dedent(data).encode())
        return path

    return written


@pytest.fixture
def module(tmp_path):
    """Write a module beside the config and return its name, which no other test uses."""

    def written(text=MODULE):
        name = "of_" + re.sub(r"\W", "_", tmp_path.name)
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return written


def _without(*keys):
    return {key: value for key, value in TOP.items() if key not in keys}


def _error(source, overrides=()):
    with pytest.raises(ConfigError) as caught:
        load(source, overrides)
    return caught.value


# --- what is wrong ---


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("num_steps", "0", "num_steps: got 0; allowed an integer from 1 to 2147483647"),
        ("num_steps", "true", "num_steps: got true; allowed an integer from 1 to"),
        ("num_steps", "1.0", "num_steps: got 1.0; allowed an integer from 1 to"),
        ("num_steps", "2147483648", "num_steps: got 2147483648; allowed an integer from 1 to"),
        ("num_steps", "[5]", "num_steps: got [5]; allowed an integer from 1 to"),
        ("record_every", "-3", "record_every: got -3; allowed an integer from 1 to"),
        ("snapshot_every", '"10"', 'snapshot_every: got "10"; allowed an integer from 1 to'),
        ("group_width", "0", "group_width: got 0; allowed an integer from 1 to"),
        ("seed", "-1", "seed: got -1; allowed an integer from 0 to 4294967295, or a list"),
        ("seed", "4294967296", "seed: got 4294967296; allowed an integer from 0 to 4294967295"),
        ("seed", "[]", "seed: got []; allowed at least one: an integer from 0"),
        ("seed", "[1, 2, 1]", "seed[2]: got 1; allowed every value once"),
        ("seed", "[0, true]", "seed[1]: got true; allowed an integer from 0"),
        ("seed", "[0, 1.0]", "seed[1]: got 1.0; allowed an integer from 0"),
        ("learning_rate", "0", "learning_rate: got 0; allowed a finite number above 0, or a list"),
        ("learning_rate", "nan", "learning_rate: got nan; allowed a finite number above 0"),
        ("learning_rate", "[0.1, inf]", "learning_rate[1]: got inf; allowed a finite number"),
        ("learning_rate", "true", "learning_rate: got true; allowed a finite number above 0"),
        ("learning_rate", '["a", 0.1]', 'learning_rate[0]: got "a"; allowed a finite number'),
        ("learning_rate", "[1, 1.0]", "learning_rate[1]: got 1.0; allowed every value once"),
        ("learning_rate", "1e-50", "learning_rate[0]: got 1e-50; allowed numbers that float32"),
        ("weight_decay", "1e-50", "weight_decay[0]: got 1e-50; allowed numbers that float32"),
        ("weight_decay", "-0.1", "weight_decay: got -0.1; allowed a finite number of at least 0"),
        ("weight_decay", "1979-05-27", "weight_decay: got 1979-05-27; allowed a finite number"),
        ("dtype", '"float16"', 'dtype: got "float16"; allowed "float32" or "float64"'),
        ("dtype", "32", 'dtype: got 32; allowed "float32" or "float64"'),
        ("description", "3", "description: got 3; allowed a text"),
        ("problem", '"mlp"', 'problem: got "mlp"; allowed "module:function"'),
        ("problem", '"a b:c"', 'problem: got "a b:c"; allowed "module:function"'),
        ("start", '"a:b:c"', 'start: got "a:b:c"; allowed "module:function"'),
        (
            "optimizer",
            '"adam"',
            'optimizer: got "adam"; allowed "gdwd", "quasi_rmsprop", "momentum", ',
        ),
        ("observables", "[]", "observables: got []; allowed at least one: names of observables"),
        ("observables", '["loss", "loss"]', 'observables[1]: got "loss"; allowed every value once'),
        ("problem_options", "3", "problem_options: got 3; allowed a table"),
        ("axes", "[1, 2]", "axes: got [1, 2]; allowed a table of lists"),
        ("seeds", "[1]", "seeds: got an unknown key; allowed preset, problem, seed, "),
        ("record_at", "[0, 5]", "record_every, record_at, num_records: got record_every = 100 and"),
        ("num_records", "5", "record_every, record_at, num_records: got record_every = 100 and"),
        ("tau", "2.0", "num_steps, tau: got num_steps = 2000 and tau = 2.0; allowed one of them"),
        ("preset", '"mlp-digits"', 'preset, problem: got preset = "mlp-digits" and problem = '),
    ],
)
def test_a_wrong_value_is_told_with_its_key_and_what_is_allowed(write, key, value, expected):
    tables = {name: table for name, table in TABLES.items() if name != key}
    (line,) = _error(write(rendered(TOP | {key: value}, tables))).mistakes
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"num_steps": "9", "learning_rate": "[0.1, 20]", "weight_decay": "[0.001, 0.1]"},
            "learning_rate * weight_decay: got 20.0 * 0.1 = 2; allowed products below 1",
        ),
        (
            {"tau": "2.0", "weight_decay": "[0.0, 0.1]"},
            "tau: got 2.0; allowed only where learning_rate * weight_decay is above 0 at every",
        ),
        ({"tau": "1e9"}, "tau: got 1000000000.0; allowed at most 2147483647 steps"),
        ({"tau": "inf"}, "tau: got inf; allowed a finite number above 0"),
        ({"tau": "0"}, "tau: got 0; allowed a finite number above 0"),
        # the slowest point takes 2/(0.1 · 0.001) steps, the fastest 2/(0.2 · 0.01)
        ({"tau": "2.0", "record_at": "[0, 20000]"}, "record_at: got 20000; allowed steps below"),
        ({"tau": "2.0", "num_records": "1001"}, "num_records: got 1001; allowed at most the 1000"),
        (
            {"num_steps": "100", "record_at": "[0, 100]"},
            "record_at[1]: got 100; allowed steps below num_steps = 100",
        ),
        (
            {"num_steps": "100", "record_at": "[5, 3]"},
            "record_at: got [5, 3]; allowed steps that increase",
        ),
        ({"num_steps": "9", "num_records": "10"}, "num_records: got 10; allowed at most num_steps"),
        (
            {"num_steps": "9", "optimizer": '"quasi_rmsprop"'},
            "weight_decay: got [0.001, 0.01]; allowed 0, or nothing",
        ),
        ({}, "num_steps, tau: got neither; allowed one of them"),
    ],
)
def test_what_does_not_go_together_is_told(write, changes, expected):
    base = _without("num_steps", "record_every")
    (line,) = _error(write(rendered(base | changes))).mistakes
    assert line.startswith(expected)


@pytest.mark.parametrize("key", ["problem", "seed", "learning_rate", "weight_decay"])
def test_a_missing_key_is_told(write, key):
    mistakes = _error(write(rendered(_without(key)))).mistakes
    assert [line for line in mistakes if line.startswith(f"{key}: got nothing; allowed")]


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ({"angle": "0.6"}, "axes.angle: got 0.6; allowed at least one value in a list of"),
        ({"angle": "[]"}, "axes.angle: got []; allowed at least one value in a list of"),
        ({"angle": '[1, "a"]'}, 'axes.angle: got [1, "a"]; allowed a list of finite numbers, of'),
        ({"angle": "[1, true]"}, "axes.angle: got [1, true]; allowed a list of finite numbers"),
        ({"angle": "[0.5, nan]"}, "axes.angle: got [0.5, nan]; allowed a list of finite numbers"),
        ({"angle": "[[1], [1.5]]"}, "axes.angle: got [[1], [1.5]]; allowed a list of"),
        ({"angle": "[[1], []]"}, "axes.angle: got [[1], []]; allowed a list of"),
        ({"angle": "[1.5, 1.5]"}, "axes.angle[1]: got 1.5; allowed every value once"),
        ({"angel": "[1.5]"}, "axes.angel: got a keyword that nothing takes; allowed keywords"),
        ({'"a b"': "[1.5]"}, 'axes: got the name "a b"; allowed names of keywords'),
        ({"seed": "[1]"}, "axes.seed: got a name that is taken; allowed any other name"),
        ({"step": "[1]"}, "axes.step: got a name that is taken; allowed any other name"),
        ({"loss": "[1]"}, "axes.loss: got a name that is taken; allowed any other name"),
    ],
)
def test_a_wrong_axis_is_told(write, axes, expected):
    lines = _error(write(rendered(TOP, TABLES | {"axes": axes}))).mistakes
    assert any(line.startswith(expected) for line in lines)
    assert len(lines) <= 2  # a name that is taken, or is none, is a keyword of nothing too


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"images": "5"}, "problem_options.images: got a keyword that nothing takes; allowed"),
        ({"num_images": "nan"}, "problem_options.num_images: got nan; allowed numbers other than"),
        ({"num_images": "2024-01-01"}, "problem_options.num_images: got 2024-01-01; allowed"),
        ({"num_images": "[1, [2, nan]]"}, "problem_options.num_images[1][1]: got nan; allowed"),
        ({"num_images": "9223372036854775808"}, "problem_options.num_images: got 92233720368547"),
        ({"dtype": '"float64"'}, 'problem_options.dtype: got "float64"; allowed as the key dtype'),
    ],
)
def test_a_wrong_option_is_told(write, options, expected):
    (line,) = _error(write(rendered(TOP, TABLES | {"problem_options": options}))).mistakes
    assert line.startswith(expected)


def test_an_axis_is_not_an_option_too(write):
    tables = {"problem_options": {"num_images": "20"}, "axes": {"num_images": "[10, 20]"}}
    (line,) = _error(write(rendered(TOP, tables))).mistakes
    assert line.startswith("axes.num_images: got [10, 20]; allowed once: problem_options.num_imag")


def test_every_observable_is_listed_where_one_is_unknown(write):
    (line,) = _error(write(rendered(TOP | {"observables": '["sharpnes_iterate"]'}))).mistakes
    assert line.startswith('observables[0]: got "sharpnes_iterate"; allowed names of observables')
    assert all(name in line for name in (*BUILT_IN, *RUNNING))
    assert line.endswith('did you mean "sharpness_iterate"?')


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("learning_rates", "learning_rate"), ("snapshot_evry", "snapshot_every"), ("ax", "axes")],
)
def test_the_nearest_known_key_is_proposed(write, wrong, meant):
    (line,) = _error(write(rendered({wrong: "1"} | TOP))).mistakes
    assert line.endswith(f'did you mean "{meant}"?')


def test_a_grid_of_more_than_ten_million_points_is_refused(write):
    seeds = str([*range(2000)])
    rates = str([0.1 + 1e-4 * index for index in range(1251)])
    (line,) = _error(write(rendered(TOP | {"seed": seeds, "learning_rate": rates}))).mistakes
    assert line.startswith("grid: got 2000 seed × 1251 learning_rate × 2 weight_decay × 2 angle = ")
    assert line.endswith(f"{2000 * 1251 * 4} points; allowed at most 10000000")


def test_every_mistake_is_told_at_once(write):
    path = write("""
        problem = "no_such_module:f"
        sed = 1
        learning_rate = [0.1, -1]
        weight_decay = "a"
        num_steps = 0
        observables = ["los"]
        [axes]
        step = [1]
    """)
    error = _error(path, ["group_width=0", "record_every=[1"])
    keys = [line.split(":")[0] for line in error.mistakes]
    assert keys == [
        "--set record_every", "sed", "learning_rate[1]", "weight_decay", "num_steps",
        "observables[0]", "group_width", "axes.step", "seed", "problem",
    ]  # fmt: skip
    header, *lines = str(error).splitlines()
    assert header == f"{path}: 10 mistakes"
    assert [line.strip() for line in lines] == list(error.mistakes)


# --- files ---


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"seed = [1\nnum_steps = 3", r"is not TOML: Unclosed array \(at line 2, column 1\)"),
        (b"seed = 1\nseed = 2\n", r"is not TOML: Cannot overwrite a value \(at line 2"),
        (b"seed = \xff", r"is not UTF-8 \(line 1, byte 7\)"),
        (b"\n\n\xc3", r"is not UTF-8 \(line 3, byte 2\)"),
        (b"a = " + b"[" * 100_000, "is not TOML: nested too deeply"),
        (b"#" * (2**24 + 1), "is larger than 16777216 bytes"),
    ],
)
def test_a_file_that_is_no_config_is_refused(write, data, expected):
    (line,) = _error(write(data)).mistakes
    assert re.match(expected, line)


def test_a_source_that_cannot_be_read_is_refused(tmp_path, write):
    (line,) = _error(tmp_path).mistakes
    assert line == "is a folder; allowed a TOML file, or the name of a preset"
    (line,) = _error(tmp_path / "none.toml").mistakes
    assert line.startswith("no such file, and no preset of this name; the presets are linear-")
    (line,) = _error(write(b"") / "below").mistakes
    assert line == "cannot be read: Not a directory"
    (line,) = _error("nul\0byte").mistakes
    assert line.startswith("is no path: embedded null byte")
    error = _error("mlp-digit")
    assert error.source == "mlp-digit"
    assert error.mistakes[0].endswith('did you mean "mlp-digits"?')


def test_an_unknown_preset_is_told_with_those_there_are(write):
    (line,) = _error(write('preset = "mlp-digts"\nseed = 1')).mistakes
    assert line.startswith('preset: got "mlp-digts"; allowed one of ')
    assert all(name in line for name in presets()) and line.endswith('did you mean "mlp-digits"?')


# --- layers ---


def test_a_preset_lies_over_the_one_that_it_names(write):
    base, ablation = load("vgg11-cifar10-small"), load("vgg11-cifar10-no-decay-small")
    assert ablation.weight_decay == (0.0,) and base.weight_decay != (0.0,)
    assert ablation.problem_options == base.problem_options
    assert (
        ablation.problem == load("vgg11-cifar10").problem and ablation.num_steps == base.num_steps
    )
    below = load(write('preset = "vgg11-cifar10-no-decay-small"\nnum_steps = 7'))
    assert (below.weight_decay, below.num_steps) == ((0.0,), 7)
    assert all(presets().values())  # each tells what one sees


def test_the_file_lies_over_the_preset_and_the_overrides_over_the_file(write):
    path = write("""
        preset = "mlp-digits-small"
        seed = 9
        learning_rate = [0.3, 0.4]
        [problem_options]
        num_images = 32
    """)
    preset = load("mlp-digits-small")
    config = load(path, ["learning_rate=0.5", "problem_options.activation=tanh", "dtype=float64"])
    assert config.seed == (9,) and config.learning_rate == (0.5,)
    assert config.weight_decay == preset.weight_decay and config.num_steps == preset.num_steps
    assert config.problem_options == {
        "num_images": 32,
        "num_test_images": 512,
        "widths": (64, 64),
        "activation": "tanh",
    }
    assert config.dtype == "float64" and config.problem == preset.problem


def test_keys_that_are_alternatives_replace_each_other(write):
    path = write('preset = "linear-regression-small"\nnum_steps = 50\nrecord_at = [0, 7, 49]')
    config = load(path)
    assert (config.num_steps, config.tau) == (50, None)
    assert (config.record_at, config.num_records) == ((0, 7, 49), None)
    config = load(path, ["tau=1", "record_every=10"])
    assert (config.num_steps, config.tau) == (None, 1.0)
    assert (config.record_at, config.record_every) == (None, 10)
    lines = _error(path, ["tau=1", "num_steps=5"]).mistakes
    assert lines[0].startswith("num_steps, tau: got num_steps = 5 and tau = 1; allowed one of them")


def test_an_axis_replaces_the_option_of_that_name_and_the_reverse(write):
    path = write('preset = "linear-regression-small"\n[axes]\nnum_images = [10, 20]')
    config = load(path)
    assert config.problem_options == {}
    assert config.axes == {"angle": (0.6, 1.2), "num_images": (10, 20)}
    config = load(path, ["problem_options.num_images=12"])
    assert config.problem_options == {"num_images": 12}
    assert config.axes == {"angle": (0.6, 1.2)}


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("seed=[3, 4]", "seed", (3, 4)),
        ("seed = 3", "seed", (3,)),
        ("weight_decay=0", "weight_decay", (0.0,)),
        ("learning_rate=[1e-2, 1]", "learning_rate", (0.01, 1.0)),
        ("dtype=float64", "dtype", "float64"),
        ('dtype="float64"', "dtype", "float64"),
        ("observables=loss", "observables", ("loss",)),
        ("start=sharpflow.experiments.problems:start_at_angle", "start", TOP["start"][1:-1]),
        ("axes.angle=[0.1, 1]", "axes", {"angle": (0.1, 1.0)}),
        ("axes={angle = [1, 2]}", "axes", {"angle": (1, 2)}),
        ("description=a-word", "description", "a-word"),
        ("description=/a/b.c", "description", "/a/b.c"),
        ("description=./a", "description", "./a"),
        ("description=../a", "description", "../a"),
    ],
)
def test_an_override_is_toml_or_a_bare_word(write, override, key, value):
    assert getattr(load(write(malformed.VALID), [override]), key) == value


def test_of_two_overrides_of_a_key_the_later_one_counts(write):
    assert load(write(malformed.VALID), ["seed=[3]", "seed=[4]"]).seed == (4,)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", '--set: got "seed"; allowed key=value or table.key=value'),
        ("=3", '--set: got "=3"; allowed key=value'),
        ("a..b=3", '--set: got "a..b=3"; allowed key=value'),
        ("seed=", '--set seed: got ""; allowed'),
        ("seed=[1", '--set seed: got "[1"; allowed'),
        ("seed=1\nnum_steps=2", '--set seed: got "1\\nnum_steps=2"; allowed'),
        ("learning_rate=.5", '--set learning_rate: got ".5"; allowed a number, "text", a bare'),
        ("dtype=float 32", '--set dtype: got "float 32"; allowed'),
        ("dtype='\udcff'", "--set dtype: got \"'\\udcff'\"; allowed"),
        ("seed.x=3", "seed: got {x = 3}; allowed an integer from 0"),
        ("sede=3", "sede: got an unknown key; allowed"),
        ("num_steps=ten", 'num_steps: got "ten"; allowed an integer'),
        ("seed=" + "[" * 100_000, "--set seed: got "),
    ],
)
def test_an_override_that_is_wrong_is_told(write, override, expected):
    (line,) = _error(write(malformed.VALID), [override]).mistakes
    assert line.startswith(expected)


# --- functions ---


def test_a_module_beside_the_config_or_in_the_working_directory_is_found(
    write, module, tmp_path, monkeypatch
):
    beside = load(write(rendered(_own(module()), {})))
    assert beside.problem == f"{module()}:problem" and beside.folder == tmp_path
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    name = f"{module()}_elsewhere"
    (elsewhere / f"{name}.py").write_text(MODULE)
    path = write(rendered(_own(name), {}))
    (line,) = _error(path).mistakes
    assert line.startswith(f'problem: got "{name}:problem"; allowed a module in {tmp_path}, in the')
    monkeypatch.chdir(elsewhere)
    before = list(sys.path)
    assert load(path).problem == f"{name}:problem"
    assert sys.path == before


def _own(name, **changes):
    """A config of the user's own problem; the values of changes are texts of TOML."""
    own = _without("start", "record_every", "snapshot_every", "group_width")
    return own | {"problem": f'"{name}:problem"', "num_steps": "10"} | changes


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
    (line,) = _error(write(rendered(_own(module(text)), {}))).mistakes
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
    path = write(rendered(_own(name, problem=f'"{reference.format(name)}"'), {}))
    (line,) = _error(path).mistakes
    assert line.startswith(f'problem: got "{reference.format(name)}"; allowed ')
    assert expected.format(name) in line


@pytest.mark.parametrize("key", ["start", "optimizer"])
def test_start_and_optimizer_are_functions_of_what_the_grid_passes(write, module, key):
    name = module()
    (line,) = _error(write(rendered(_own(name, **{key: f'"{name}:leaving"'}), {}))).mistakes
    assert f"{key}: got" in line and "learning_rate, weight_decay); too many positional" in line
    (line,) = _error(write(rendered(_own(name, **{key: f'"{name}:READY"'}), {}))).mistakes
    assert line.endswith("allowed a function; this is Problem")


def test_an_axis_of_the_optimizer_holds_numbers(write, module):
    top = _own(name := module(), optimizer=f'"{name}:optimizer"')
    (line,) = _error(write(rendered(top, {"axes": {"momentum": '["a", "b"]'}}))).mistakes
    assert line.startswith('axes.momentum: got ["a", "b"]; allowed numbers, since the optimizer')


def test_a_function_of_any_keywords_takes_every_option_and_axis(write, module):
    top = _own(name := module(), problem=f'"{name}:of_anything"')
    config = load(write(rendered(top, {"problem_options": {"a": "1", "b": '["c"]'}})))
    assert config.build()["problem"].init(jax.random.key(0)).shape == (2,)
    config = load(write(rendered(top, {"axes": {"anything": "[1, 2]"}})))
    assert config.build()["problem"](anything=1).init(jax.random.key(0)).shape == (1,)


# --- what is built ---


def test_build_gives_the_grid_everything_that_is_set(write):
    config = load(write(malformed.VALID))
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
        "observables": ("loss", "norm_squared", "sharpness_iterate"),
        "snapshot_every": 10,
        "group_width": 8,
        "optimizer": sf.gdwd,
    }


def test_what_a_config_leaves_out_has_a_default(write, module):
    config = load(write(rendered(_own(module()) | {"seed": "4"}, {}).replace(b"observ", b"#")))
    assert (config.optimizer, config.dtype, config.seed) == ("gdwd", "float32", (4,))
    assert config.observables == DEFAULT
    left_out = {"tau", "record_every", "record_at", "num_records", "start", "axes", "group_width"}
    assert not left_out & config.build().keys()


def test_the_problem_gets_its_options_and_the_dtype(write, module):
    tables = {"problem_options": {"scale": "2.5", "widths": "[3, 4]"}}
    top = _own(module(), dtype='"float64"')
    problem = load(write(rendered(top, tables))).build()["problem"]
    assert list(problem.metrics) == ["2.5 (3, 4) float64"]
    assert problem.init(jax.random.key(0)).dtype == jnp.float64


def test_a_problem_that_is_ready_is_taken_as_it_is(write, module):
    top = _own(name := module(), problem=f'"{name}:READY"')
    problem = load(write(rendered(top, {}))).build()["problem"]
    assert list(problem.metrics) == ["7.0 (2,) float32"]
    (line,) = _error(write(rendered(top, {"problem_options": {"scale": "1"}}))).mistakes
    assert line.startswith("problem_options.scale: got a keyword that nothing takes")


def test_a_problem_with_an_axis_is_left_to_the_grid(write, module):
    tables = {"problem_options": {"scale": "2.5"}, "axes": {"widths": "[[3], [4, 5]]"}}
    arguments = load(write(rendered(_own(module()), tables))).build()
    assert arguments["axes"] == {"widths": ((3,), (4, 5))}
    problem = arguments["problem"](widths=(4, 5))
    assert list(problem.metrics) == ["2.5 (4, 5) float32"]
    assert list(inspect.signature(arguments["problem"]).parameters) == ["widths"]


def test_start_gets_the_dtype_and_the_options_that_it_names(write, module):
    name = module()
    tables = {"problem_options": {"scale": "2.5", "widths": "[3]"}, "axes": {"shift": "[0.5, 1]"}}
    start = load(write(rendered(_own(name, start=f'"{name}:start"'), tables))).build()["start"]
    params = start(jax.random.key(0), 0.25, 0.5, shift=1.0)
    assert params.dtype == jnp.float32 and params[0] == 0.25 + 0.5 + 1.0 + 2.5


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        ("raising", "problem: {}:raising raised RuntimeError: no data here \\x1b[31m"),
        ("leaving", "problem: {}:leaving raised SystemExit: 3"),
        ("of_nothing", 'problem: got "{}:of_nothing"; allowed a function that returns a Problem,'),
        ("failing_init", "problem: the init of {}:failing_init raised KeyError: 'weights'"),
        ("in_double", 'dtype: got "float32"; allowed "float64", which the parameters of {}:in_'),
    ],
)
def test_what_is_wrong_with_the_function_of_the_user_is_one_line(write, module, problem, expected):
    name = module()
    path = write(rendered(_own(name, problem=f'"{name}:{problem}"'), {}))
    with pytest.raises(ConfigError) as caught:
        load(path).build()
    (line,) = caught.value.mistakes
    assert line.startswith(expected.format(name)) and caught.value.source == str(path)


def test_a_function_that_the_grid_calls_fails_in_one_line_too(write, module):
    name = module()
    top = _own(name, optimizer=f'"{name}:optimizer"', problem=f'"{name}:raising"')
    axes = {"momentum": "[0.5, 2.0]", "scale": "[1.0]"}
    arguments = load(write(rendered(top, {"axes": axes}))).build()
    assert callable(arguments["optimizer"](0.1, 0.0, momentum=0.5).update)
    with pytest.raises(ConfigError, match="optimizer raised ValueError: momentum is 2.0"):
        arguments["optimizer"](0.1, 0.0, momentum=2.0)
    with pytest.raises(ConfigError, match="raising raised RuntimeError: no data here"):
        arguments["problem"](scale=1.0)


def test_float64_needs_x64(write, module):
    config = load(write(rendered(_own(module(), dtype='"float64"'), {})))
    with jax.enable_x64(False), pytest.raises(ConfigError, match="jax_enable_x64"):
        config.build()


@pytest.mark.parametrize("b", [None, 3.0])
def test_quasi_rmsprop_runs_without_weight_decay(write, b):
    top = _without("weight_decay", "num_steps", "record_every") | {
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
        ({}, "0.8", "b * learning_rate**2: got 2.0 * 0.8**2 = 1.28; allowed products below 1"),
        ({"b": "[0.0]"}, "0.1", "axes.b: got [0.0]; allowed numbers above 0"),
        ({"v0": "[1, -2]"}, "0.1", "axes.v0: got [1, -2]; allowed numbers above 0"),
    ],
)
def test_quasi_rmsprop_keeps_its_average_positive(write, axes, rate, expected):
    top = _without("weight_decay") | {"optimizer": '"quasi_rmsprop"', "learning_rate": rate}
    tables = TABLES | {"axes": TABLES["axes"] | axes}
    (line,) = _error(write(rendered(top, tables))).mistakes
    assert line.startswith(expected)


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
    top = _without("num_steps", "record_every") | {"optimizer": f'"{name}"', "tau": "1.0"}
    (line,) = _error(write(rendered(top, TABLES))).mistakes
    assert (
        line
        == f'tau: got 1.0; allowed num_steps instead, since optimizer "{name}" has no flow time'
    )


# --- the resolved config as text ---


def _without_description(text):
    return "".join(line for line in text.splitlines(True) if not line.startswith("description"))


@pytest.mark.parametrize("name", presets())
def test_a_resolved_config_reads_back_equal(write, name):
    config = load(name)
    again = load(write(config.to_toml()))
    assert again == config and differences(config, again) == []
    assert again.to_toml() == config.to_toml() and again.description == config.description


def test_every_kind_of_value_reads_back_equal(write, module):
    name = module()
    options = {"a": "true", "b": "-3", "c": "1e300", "d": '"é\\"\\\\\\u007f\\n"', "e": "inf",
               "f": "[[1, 2], [], [0.5]]", "g": '{x = {"a b" = [1]}, y = 2}'}  # fmt: skip
    axes = {"k": "[1, 2]", "l": "[1, 0.5]", "m": '["x", "y z"]', "n": "[[1, 2], [3]]"}
    top = _own(name, problem=f'"{name}:of_anything"', record_at="[0, 3, 9]", snapshot_every="2",
               group_width="4", start=f'"{name}:start"', optimizer=f'"{name}:optimizer"',
               description='"one"')  # fmt: skip
    config = load(write(rendered(top, {"problem_options": options, "axes": axes})))
    assert config.problem_options["d"] == 'é"\\\x7f\n'
    assert config.problem_options["g"] == {"x": {"a b": (1,)}, "y": 2}
    assert config.axes["l"] == (1.0, 0.5) and isinstance(config.axes["l"][0], float)
    again = load(write(config.to_toml()))
    assert again == config and again.to_toml() == config.to_toml()


PLAIN = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(PLAIN)
def test_toml_text_is_one_line_that_reads_back_equal(value):
    text = toml_value(value)
    assert len(text.splitlines()) == 1
    assert repr(tomllib.loads(f"value = {text}")["value"]) == repr(value)


def test_differences_tell_the_old_and_the_new_value_of_every_changed_key():
    old = load("linear-regression-small", ["snapshot_every=5"])
    new = load("linear-regression-small", ["learning_rate=[0.2]", "num_steps=100",
                                           "problem_options.num_images=21"])  # fmt: skip
    assert sorted(differences(old, new)) == [
        "learning_rate: the run has [0.1], now [0.2]",
        "num_steps: the run has nothing, now 100",
        "problem_options.num_images: the run has 20, now 21",
        "snapshot_every: the run has 5, now nothing",
        "tau: the run has 2.0, now nothing",
    ]
    renamed = load("linear-regression-small", ["snapshot_every=5", "description=other"])
    assert differences(old, renamed) == [] and renamed == old


def test_a_stored_config_can_be_read_without_its_functions(write):
    path = write(rendered(_own("no_such_module"), {}))
    assert 'there is no module "no_such_module"' in str(_error(path))
    stored = load(path, check_functions=False)
    assert stored.problem == "no_such_module:problem" and stored.num_steps == 10


# --- presets ---


@pytest.mark.parametrize("name", presets())
def test_a_preset_is_valid_and_builds_its_problem(name, cifar10_root):
    config = load(name)
    assert config.description == presets()[name] and config.description.endswith(".")
    if "cifar10" in name and name.endswith("-small"):
        return  # the same problem in another size, as the next test has it
    if "cifar10" in name:  # its images are no part of the package
        small = {"num_images": 20, "num_test_images": 10, "width": 1 / 16}
        small["root"] = str(cifar10_root)
        config = dataclasses.replace(config, problem_options=config.problem_options | small)
    problem = config.build()["problem"]
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(problem.init(jax.random.key(0)))}
    assert dtypes == {np.dtype(config.dtype)}
    assert problem.scale_invariant == ("no-normalization" not in name)


def test_every_preset_has_a_small_version_of_the_same_problem():
    names = [name for name in presets() if not name.endswith("-small")]
    assert {"linear-regression", "matrix-completion", "mlp-digits", "vgg11-cifar10"} <= set(names)
    smaller = {"width", "num_images", "num_test_images"}
    for name in names:
        large, small = load(name), load(f"{name}-small")
        assert large.problem == small.problem
        changed = large.problem_options.items() ^ small.problem_options.items()
        assert {key for key, _ in changed} <= (smaller if "cifar10" in name else set())
        assert small.num_steps is None or small.num_steps < large.num_steps
        assert len(small.seed) < len(large.seed) or "cifar10" in name


def test_a_changed_preset_loses_its_description():
    assert load("mlp-digits", ["seed=1"]).description == ""


@pytest.mark.parametrize(("angle", "seed"), [*itertools.product([0.3, 1.2], [0, 1])])
def test_the_start_at_an_angle_is_at_the_edge(angle, seed):
    problem = problems.linear_regression_digits(dtype="float64")
    start = problems.start_at_angle(
        jax.random.key(seed), 0.2, 0.01, angle=angle, perturbation=0.0, dtype="float64"
    )
    theta = start / jnp.linalg.norm(start)
    assert float(problem.loss_value(start)) < 1e-25
    x, _ = sf.models.digits(20)
    np.testing.assert_allclose(angle_to_span(np.asarray(theta), x), angle, rtol=1e-12)
    np.testing.assert_allclose(problem.metrics["angle_to_solution"](start), angle, rtol=1e-12)
    general = sf.theory.start_at_edge(problem, theta, 0.2, 0.01, perturbation=0.0)
    np.testing.assert_allclose(start, general, rtol=1e-9)
    off = problems.start_at_angle(jax.random.key(seed), 0.2, 0.01, angle=angle, dtype="float64")
    vector = sf.theory.spherical_sharpness(problem, theta)[1][0]
    moved = (off - start) / jnp.linalg.norm(start)
    np.testing.assert_allclose(abs(moved @ vector), 1e-4, rtol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(moved), 1e-4, rtol=1e-9)


def test_points_outside_the_span_differ_from_seed_to_seed():
    one, other = (problems.start_at_angle(jax.random.key(s), 0.2, 0.01) for s in (0, 1))
    cosine = one @ other / jnp.linalg.norm(one) / jnp.linalg.norm(other)
    assert cosine < 0.9


def test_the_linear_preset_follows_the_exact_angle():
    config = load("linear-regression-small")
    arguments = config.build()
    rate, decay = config.learning_rate[0], max(config.weight_decay)
    trajectory = sf.simulate(
        arguments["problem"],
        arguments["start"](jax.random.key(0), rate, decay, angle=1.2),
        arguments["optimizer"](rate, decay),
        round(config.tau / (rate * decay)),
        record_every=20,
        observables=("metrics",),
        progress=False,
    )
    expected = np.arctan(np.tan(1.2) * np.exp(-trajectory.tau))
    # what the description promises
    np.testing.assert_allclose(trajectory["angle_to_solution"], expected, atol=0.02)


# --- whatever comes ---


def test_a_malformed_config_is_told_before_any_problem_is_built(tmp_path, monkeypatch):
    def built(*_):
        raise AssertionError("a problem is built")

    monkeypatch.setattr(sf.Problem, "__post_init__", built)
    path = tmp_path / "config.toml"
    configs = malformed.malformed_configs(250, seed=0)
    assert len({data for _, data in configs}) == 250
    for description, data in configs:
        path.write_bytes(data)
        error = _error(path)
        assert error.source == str(path), description
        assert len(str(error).splitlines()) == 1 + len(error.mistakes), description
        assert all(line.isprintable() for line in error.mistakes), description
        assert len(error.mistakes) <= 60 and len(str(error)) < 20_000, description


def test_the_malformed_configs_are_always_the_same_ones():
    assert malformed.malformed_configs(40, 3) == malformed.malformed_configs(40, 3)
    assert malformed.malformed_configs(40, 3) != malformed.malformed_configs(40, 4)


def test_the_config_that_the_malformed_ones_come_from_is_valid(write):
    assert load(write(malformed.VALID)).num_steps == 2000


def test_a_million_entries_are_told_in_a_few_lines(write):
    entries = "[" + "-1.0," * 1_000_000 + "]"
    error = _error(write(rendered(TOP | {"learning_rate": entries})))
    assert len(error.mistakes) == 21
    assert error.mistakes[-1] == "learning_rate: 999980 more mistakes like these"
