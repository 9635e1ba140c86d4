"""Everything that is wrong with a config is told at once, in a line for each mistake."""

import pytest
from configs import error_of, without
from malformed import TABLES, TOP, VALID, malformed_configs, rendered

import sharpflow as sf
from sharpflow.experiments.config import load
from sharpflow.simulator.observables import BUILT_IN, RUNNING


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
        ("lanes", '"sideways"', 'lanes: got "sideways"; allowed "side_by_side" or "in_turn"'),
        (
            "matmul_precision",
            '"double"',
            'matmul_precision: got "double"; allowed "highest", "high" or "default"',
        ),
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
        ("learning_rate", "1e-50", "learning_rate[0]: got 1e-50; allowed within float32, from"),
        ("weight_decay", "1e-50", "weight_decay[0]: got 1e-50; allowed within float32, from"),
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
        ("prediction", "true", "prediction: got true; allowed a table, [prediction]"),
        ("final_state", "1", "final_state: got 1; allowed True or False"),
        ("fork", '"runs/a"', 'fork: got "runs/a"; allowed a table, [fork], with run'),
        ("fork", "{at = 3}", "fork.run: got nothing; allowed the folder of a run"),
        ("fork", '{run = "a", at = -1}', "fork.at: got -1; allowed an integer"),
        ("fork", '{run = "a", step = 1}', "fork.step: got an unknown key; allowed run, at, point"),
        ("fork", '{run = "a", point = 3}', "fork.point: got 3; allowed a table of labels by axis"),
        ("fork", '{run = "a", point = {seed = [1]}}', "fork.point.seed: got [1]; allowed a number"),
        ("prediction", "{rtol = 0}", "prediction.rtol: got 0; allowed a finite number above 0"),
        ("prediction", "{max_edge = [1]}", "prediction.max_edge: got [1]; allowed an integer"),
        (
            "prediction",
            "{max_edges = 3}",
            "prediction.max_edges: got an unknown key; allowed kind, arrival_distance, ",
        ),
        (
            "prediction",
            '{kind = "flow"}',
            'prediction.kind: got "flow"; allowed "sharpness_flow" or "central_flow"',
        ),
        ("seeds", "[1]", "seeds: got an unknown key; allowed preset, problem, seed, "),
        ("record_at", "[0, 5]", "record_every, record_at, num_records: got record_every = 100 and"),
        ("num_records", "5", "record_every, record_at, num_records: got record_every = 100 and"),
        ("tau", "2.0", "num_steps, tau: got num_steps = 2000 and tau = 2.0; allowed one of them"),
        ("preset", '"mlp-digits"', 'preset, problem: got preset = "mlp-digits" and problem = '),
    ],
)
def test_a_wrong_value_is_told_with_its_key_and_what_is_allowed(write, key, value, expected):
    tables = {name: table for name, table in TABLES.items() if name != key}
    (line,) = error_of(write(rendered(TOP | {key: value}, tables))).mistakes
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"num_steps": "9", "learning_rate": "[0.1, 20]", "weight_decay": "[0.001, 0.1]"},
            "learning_rate * weight_decay: got 20.0 * 0.1 = 2; allowed below 1",
        ),
        (
            {"tau": "2.0", "weight_decay": "[0.0, 0.1]"},
            "tau: got 2.0; allowed a flow time that every point reaches, but the least flow time",
        ),
        ({"tau": "1e9"}, "tau: got 1000000000.0; allowed a flow time of at most 2147483647 steps"),
        ({"tau": "inf"}, "tau: got inf; allowed a finite number above 0"),
        ({"tau": "0"}, "tau: got 0; allowed a finite number above 0"),
        # the slowest point takes 2/(0.1 · 0.001) steps, the fastest 2/(0.2 · 0.01)
        ({"tau": "2.0", "record_at": "[0, 20000]"}, "record_at[1]: got 20000; allowed above 0, "),
        ({"tau": "2.0", "num_records": "1001"}, "num_records: got 1001; allowed at most 1000"),
        (
            {"num_steps": "100", "record_at": "[0, 100]"},
            "record_at[1]: got 100; allowed above 0, the step before, and at most 99",
        ),
        (
            {"num_steps": "100", "record_at": "[5, 3]"},
            "record_at[1]: got 3; allowed above 5, the step before, and at most 99",
        ),
        ({"num_steps": "9", "num_records": "10"}, "num_records: got 10; allowed at most 9, the"),
        (
            {"num_steps": "9", "optimizer": '"quasi_rmsprop"'},
            "weight_decay: got 0.01; allowed 0, since this rule has no weight decay",
        ),
        ({}, "num_steps, tau: got neither; allowed one of them"),
        (
            {"num_steps": "9", "prediction": "{}", "observables": '["loss"]'},
            "observables: got [\"loss\"]; allowed with 'threshold' among them beside [prediction]",
        ),
        (
            {
                "num_steps": "9",
                "prediction": '{kind = "central_flow"}',
                "optimizer": '"momentum"',
                "observables": '["threshold"]',
            },
            'prediction.kind: got "central_flow"; allowed it with optimizer = "gdwd" and a',
        ),
    ],
)
def test_what_does_not_go_together_is_told(write, changes, expected):
    base = without("num_steps", "record_every")
    (line,) = error_of(write(rendered(base | changes))).mistakes
    assert line.startswith(expected)


@pytest.mark.parametrize("key", ["problem", "seed", "learning_rate", "weight_decay"])
def test_a_missing_key_is_told(write, key):
    mistakes = error_of(write(rendered(without(key)))).mistakes
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
    lines = error_of(write(rendered(TOP, TABLES | {"axes": axes}))).mistakes
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
    (line,) = error_of(write(rendered(TOP, TABLES | {"problem_options": options}))).mistakes
    assert line.startswith(expected)


def test_an_axis_is_not_an_option_too(write):
    tables = {"problem_options": {"num_images": "20"}, "axes": {"num_images": "[10, 20]"}}
    (line,) = error_of(write(rendered(TOP, tables))).mistakes
    assert line.startswith("axes.num_images: got [10, 20]; allowed once: problem_options.num_imag")


def test_every_observable_is_listed_where_one_is_unknown(write):
    (line,) = error_of(write(rendered(TOP | {"observables": '["sharpnes_iterate"]'}))).mistakes
    assert line.startswith('observables[0]: got "sharpnes_iterate"; allowed names of observables')
    assert all(name in line for name in (*BUILT_IN, *RUNNING))
    assert line.endswith('did you mean "sharpness_iterate"?')


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("learning_rates", "learning_rate"), ("snapshot_evry", "snapshot_every"), ("ax", "axes")],
)
def test_the_nearest_known_key_is_proposed(write, wrong, meant):
    (line,) = error_of(write(rendered({wrong: "1"} | TOP))).mistakes
    assert line.endswith(f'did you mean "{meant}"?')


def test_a_grid_of_more_than_ten_million_points_is_refused(write):
    seeds = str([*range(2000)])
    rates = str([0.1 + 1e-4 * index for index in range(1251)])
    (line,) = error_of(write(rendered(TOP | {"seed": seeds, "learning_rate": rates}))).mistakes
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
    error = error_of(path, ["group_width=0", "record_every=[1"])
    keys = [line.split(":")[0] for line in error.mistakes]
    assert keys == [
        "--set record_every", "sed", "learning_rate[1]", "weight_decay", "num_steps",
        "observables[0]", "group_width", "axes.step", "seed", "problem",
    ]  # fmt: skip
    header, *lines = str(error).splitlines()
    assert header == f"{path}: 10 mistakes"
    assert [line.strip() for line in lines] == list(error.mistakes)


def test_a_malformed_config_is_told_before_any_problem_is_built(tmp_path, monkeypatch):
    def built(*_):
        raise AssertionError("a problem is built")

    monkeypatch.setattr(sf.Problem, "__init__", built)
    path = tmp_path / "config.toml"
    configs = malformed_configs(250, seed=0)
    assert len({data for _, data in configs}) == 250
    for description, data in configs:
        path.write_bytes(data)
        error = error_of(path)
        assert error.source == str(path), description
        assert len(str(error).splitlines()) == 1 + len(error.mistakes), description
        assert all(line.isprintable() for line in error.mistakes), description
        assert len(error.mistakes) <= 60 and len(str(error)) < 20_000, description


def test_the_malformed_configs_are_always_the_same_ones():
    assert malformed_configs(40, 3) == malformed_configs(40, 3)
    assert malformed_configs(40, 3) != malformed_configs(40, 4)


def test_the_config_that_the_malformed_ones_come_from_is_valid(write):
    assert load(write(VALID)).num_steps == 2000


def test_a_million_entries_are_told_in_a_few_lines(write):
    entries = "[" + "-1.0," * 1_000_000 + "]"
    error = error_of(write(rendered(TOP | {"learning_rate": entries})))
    assert len(error.mistakes) == 21
    assert error.mistakes[-1] == "learning_rate: 999980 more mistakes like these"
