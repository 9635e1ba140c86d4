"""A config is what its layers say: a preset, the file over it, and the overrides."""

import re
import tomllib

import hypothesis.strategies as st
import pytest
from configs import error_of, own
from hypothesis import given
from malformed import TABLES, TOP, VALID, rendered

from sharpflow.experiments.config import differences, load, presets
from sharpflow.experiments.config.toml import toml_value


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
    (line,) = error_of(write(data)).mistakes
    assert re.match(expected, line)


def test_a_source_that_cannot_be_read_is_refused(tmp_path, write, monkeypatch):
    (line,) = error_of(tmp_path).mistakes
    assert line == "is a folder; allowed a TOML file, or the name of a preset"
    (line,) = error_of(tmp_path / "none.toml").mistakes
    first = next(iter(presets()))
    assert line.startswith(f"no such file, and no preset of this name; the presets are {first}, ")
    (line,) = error_of(write(b"") / "below").mistakes
    assert line == "cannot be read: Not a directory"
    (line,) = error_of("nul\0byte").mistakes
    assert line.startswith("is no path: embedded null byte")
    (tmp_path / "digits.toml").touch()
    (line,) = error_of(tmp_path / "digits.tml").mistakes
    assert line.endswith(f'did you mean "{tmp_path / "digits.toml"}"?')
    monkeypatch.chdir(tmp_path)
    (line,) = error_of("digits").mistakes  # which mlp-digits is nearer to
    assert line.endswith('did you mean "digits.toml"?')
    error = error_of("mlp-digit")
    assert error.source == "mlp-digit"
    assert error.mistakes[0].endswith('did you mean "mlp-digits"?')


def test_an_unknown_preset_is_told_with_those_there_are(write):
    (line,) = error_of(write('preset = "mlp-digts"\nseed = 1')).mistakes
    assert line.startswith('preset: got "mlp-digts"; allowed one of ')
    assert all(name in line for name in presets()) and line.endswith('did you mean "mlp-digits"?')


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
    lines = error_of(path, ["tau=1", "num_steps=5"]).mistakes
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
    assert getattr(load(write(VALID), [override]), key) == value


def test_of_two_overrides_of_a_key_the_later_one_counts(write):
    assert load(write(VALID), ["seed=[3]", "seed=[4]"]).seed == (4,)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", '--set: got "seed"; allowed key=value or table.key=value'),
        ("=3", '--set: got "=3"; allowed key=value'),
        ("a..b=3", '--set: got "a..b=3"; allowed key=value'),
        ("seed=", '--set seed: got ""; allowed'),
        ("seed=[1", '--set seed: got "[1"; allowed'),
        ("seed=1\nnum_steps=2", '--set seed: got "1\\nnum_steps=2"; allowed'),
        ("learning_rate=.5", '--set learning_rate: got ".5"; allowed a number, "text", a word'),
        ("seed=0,1", '--set seed: got "0,1"; allowed a number'),
        ("seed={x", '--set seed: got "{x"; allowed a number'),
        ("description=a\tb", '--set description: got "a\\tb"; allowed a number'),
        ("dtype=float 32", 'dtype: got "float 32"; allowed'),
        ("dtype='\udcff'", "--set dtype: got \"'\\udcff'\"; allowed"),
        ("seed.x=3", "seed: got {x = 3}; allowed an integer from 0"),
        ("sede=3", "sede: got an unknown key; allowed"),
        ("num_steps=ten", 'num_steps: got "ten"; allowed an integer'),
        ("seed=" + "[" * 100_000, "--set seed: got "),
    ],
)
def test_an_override_that_is_wrong_is_told(write, override, expected):
    (line,) = error_of(write(VALID), [override]).mistakes
    assert line.startswith(expected)


@pytest.mark.parametrize(
    "text",
    ["~/data", "/tmp/my data", "/tmp/daten-ü", "C:\\data", "\\\\server\\data", "../a b",
     ".hidden/x", "2024/data", "Glättung", "über η = 0.1 # nah", "it's", "数据"],
)  # fmt: skip
def test_an_override_may_be_any_text_that_begins_as_a_word_or_a_path(write, text):
    assert load(write(VALID), [f"description={text}"]).description == text


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
    top = own(name, problem=f'"{name}:of_anything"', record_at="[0, 3, 9]", snapshot_every="2",
               group_width="4", start=f'"{name}:start"', optimizer=f'"{name}:optimizer"',
               description='"one"')  # fmt: skip
    config = load(write(rendered(top, {"problem_options": options, "axes": axes})))
    assert config.problem_options["d"] == 'é"\\\x7f\n'
    assert config.problem_options["g"] == {"x": {"a b": (1,)}, "y": 2}
    assert config.axes["l"] == (1.0, 0.5) and isinstance(config.axes["l"][0], float)
    again = load(write(config.to_toml()))
    assert again == config and again.to_toml() == config.to_toml()


@pytest.mark.parametrize("options", [{}, {"rtol": "0.01", "kind": '"central_flow"'}])
def test_a_table_of_predictions_may_be_empty(write, options):
    config = load(write(rendered(TOP, TABLES | {"prediction": options})))
    assert config.prediction == ({} if not options else {"rtol": 0.01, "kind": "central_flow"})
    again = load(write(config.to_toml()))
    assert again == config and differences(config, again) == []
    without = load(write(VALID))
    (told,) = differences(without, load(write(rendered(TOP, TABLES | {"prediction": {}}))))
    assert told == "prediction: the run has nothing, now {}"
    assert without.prediction is None


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
    path = write(rendered(own("no_such_module"), {}))
    assert 'there is no module "no_such_module"' in str(error_of(path))
    stored = load(path, check_functions=False)
    assert stored.problem == "no_such_module:problem" and stored.num_steps == 10
