"""Configs that are wrong, for the tests of whatever reads one: always the same ones."""

import random
import tomllib
from collections.abc import Callable, Iterator

TOP = {
    "problem": '"sharpflow.experiments.problems:linear_regression_digits"',
    "seed": "[0, 1]",
    "learning_rate": "[0.1, 0.2]",
    "weight_decay": "[0.001, 0.01]",
    "num_steps": "2000",
    "record_every": "100",
    "observables": '["loss", "threshold", "sharpness_iterate"]',
    "snapshot_every": "10",
    "optimizer": '"gdwd"',
    "start": '"sharpflow.experiments.problems:start_at_angle"',
    "dtype": '"float32"',
    "group_width": "8",
    "lanes": '"in_turn"',
    "matmul_precision": '"high"',
}
TABLES = {"problem_options": {"num_images": "20"}, "axes": {"angle": "[0.6, 1.2]"}}

_COUNTS = ("num_steps", "record_every", "snapshot_every", "group_width")
_NUMBERS = ("learning_rate", "weight_decay")
_NAMES = ("problem", "optimizer", "start", "dtype", "lanes", "matmul_precision")
_OF_NO_KEY = ("true", "{}", "{a = 1}", "[[1]]", "[{}]", "1979-05-27", "07:32:00", "[]", "[true]")
_REQUIRED = ("problem", "seed", "learning_rate", "weight_decay", "num_steps")

Made = tuple[str, bytes]


def rendered(top: dict[str, str], tables: dict[str, dict[str, str]] = TABLES) -> bytes:
    """The text of a config from the text of its values."""
    lines = [f"{key} = {value}" for key, value in top.items()]
    for name, entries in tables.items():
        lines += [f"[{name}]", *(f"{key} = {value}" for key, value in entries.items())]
    return "\n".join([*lines, ""]).encode()


VALID = rendered(TOP)


def malformed_configs(count: int, seed: int) -> list[Made]:
    """Descriptions and bytes of ``count`` different configs with something wrong in each.

    Args:
      count: how many.
      seed: of what is drawn; the same seed makes the same configs.
    """
    drawn = random.Random(seed)
    made = list(_hostile())
    seen = {data for _, data in made}
    kinds = (_wrong_type, _out_of_range, _wrong_entry, _unknown_key, _missing_key, _doubled_key,
             _alternatives, _wrong_table, _wrong_function, _wrong_together, _damaged, _truncated,
             _wrong_bytes)  # fmt: skip
    while len(made) < count:
        description, data = drawn.choice(kinds)(drawn)
        if data not in seen:
            seen.add(data)
            made.append((description, data))
    return made[:count]


def _hostile() -> Iterator[Made]:
    """What costs a careless reader its stack, its time or its memory."""
    yield "an empty file", b""
    yield "nested arrays", rendered(TOP | {"seed": "[" * 50_000 + "]" * 50_000})
    yield "nested tables", rendered(TOP | {"axes2": "{a=" * 5_000 + "1" + "}" * 5_000})
    yield "a deep option", _with_option(".".join(["a"] * 500), "1")
    yield "a deep list", _with_option("a", "[" * 50 + "]" * 50)
    yield "an integer of many digits", rendered(TOP | {"num_steps": "9" * 10_000})
    yield "an integer of many bits", rendered(TOP | {"num_steps": "0x" + "f" * 100_000})
    yield "a rate of many bits", rendered(TOP | {"learning_rate": "0x" + "f" * 100_000})
    yield "a long list", rendered(TOP | {"learning_rate": "[" + "0.1," * 100_000 + "]"})
    yield "a long list of names", rendered(TOP | {"observables": "[" + '"los",' * 20_000 + "]"})
    yield "many unknown keys", rendered({f"key{i}": "1" for i in range(20_000)} | TOP)
    yield "a long key", rendered({"a" * 100_000: "1"} | TOP)
    yield "a long text", rendered(TOP | {"dtype": '"' + "a" * 1_000_000 + '"'})
    yield "control characters", rendered({'"a\\nb\\u001b[31m"': "1"} | TOP)
    yield "a text of control characters", rendered(TOP | {"dtype": r'"\u001b[2J\r\n\u2028"'})
    yield "a grid too large", rendered(TOP | {"seed": str([*range(3000)])} | _many_rates(3000))


def _many_rates(count: int) -> dict[str, str]:
    return {"learning_rate": f"[{', '.join(f'0.{i:04d}' for i in range(1, count))}]"}


def _with_option(key: str, value: str) -> bytes:
    return rendered(TOP, TABLES | {"problem_options": {key: value}})


def _changed(key: str, value: str) -> Made:
    return f"{key} = {value}", rendered(TOP | {key: value})


def _wrong_type(drawn: random.Random) -> Made:
    key = drawn.choice([*_COUNTS, *_NUMBERS, *_NAMES, "seed", "observables", "preset", "tau"])
    wrong = [*_OF_NO_KEY, '""', '"one two"', f'"{drawn.randrange(1000)}"']
    if key not in _NUMBERS:
        wrong += [f"{drawn.randrange(1000)}.5", "inf"] if key != "tau" else []
    if key in (*_NAMES, "observables"):
        wrong.append(str(drawn.randrange(1000)))
    return _changed(key, drawn.choice(wrong))


def _out_of_range(drawn: random.Random) -> Made:
    negative = str(-drawn.randrange(1, 10**6))
    key = drawn.choice([*_COUNTS, *_NUMBERS, "seed"])
    wrong = [negative, "nan", "inf", "-inf", "1e400", str(2**64 + drawn.randrange(1000))]
    if key == "learning_rate":
        wrong += ["0", "0.0", "-0.0", "1e-60", "1e60", f"1{drawn.randrange(100):02d}0"]
    elif key == "weight_decay":
        wrong += ["-1e-9", "5", "1e-60", "1e60", str(drawn.randrange(10, 1000))]
    else:
        wrong += ["4294967296", str(2**32 + drawn.randrange(1000))]
    return _changed(key, drawn.choice(wrong))


def _wrong_entry(drawn: random.Random) -> Made:
    key = drawn.choice(["seed", "learning_rate", "weight_decay", "observables", "record_at"])
    good = {
        "seed": ["3", "5"],
        "learning_rate": ["0.3", "0.5"],
        "weight_decay": ["0.1", "0.0"],
        "observables": ['"loss"', '"metrics"'],
        "record_at": ["3", "5"],
    }[key]
    wrong = ["true", "nan", "-1", "[1]", "{}", '"los"', '""', good[0], good[1], "inf", "1e400"]
    entries = [*good]
    entries.insert(drawn.randrange(3), drawn.choice(wrong))
    value = f"[{', '.join(entries)}]"
    kept = {name: text for name, text in TOP.items() if key != "record_at" or "every" not in name}
    return f"{key} = {value}", rendered(kept | {key: value})


def _unknown_key(drawn: random.Random) -> Made:
    known = drawn.choice([*TOP, "tau", "num_records", "preset"])
    place, letters = drawn.randrange(len(known)), "abcdefghijklmnopqrstuvwxyz_"
    key = drawn.choice(
        [
            known[:place] + known[place + 1 :],
            known[:place] + drawn.choice(letters) + known[place:],
            known + drawn.choice(letters),
            known.upper(),
            known.replace("_", "-") + "s",
        ]
    )
    key = key if key not in (*TOP, "tau", "preset", "") else f"{key}_"
    return f"unknown key {key}", rendered({key: TOP.get(known, "1")} | TOP)


def _missing_key(drawn: random.Random) -> Made:
    missing = {*drawn.sample(_REQUIRED, drawn.randrange(1, len(_REQUIRED)))}
    missing |= {*drawn.sample(["record_every", "dtype", "group_width", "snapshot_every"], 2)}
    kept = {key: value for key, value in TOP.items() if key not in missing}
    return f"without {', '.join(sorted(missing))}", rendered(kept)


def _doubled_key(drawn: random.Random) -> Made:
    lines = VALID.decode().splitlines()
    lines.insert(drawn.randrange(len(lines) + 1), "") if drawn.random() < 0.3 else None
    at = drawn.choice([i for i, line in enumerate(lines) if "=" in line])
    lines.insert(at + 1, lines[at])
    return f"twice: {lines[at]}", "\n".join(lines).encode()


def _alternatives(drawn: random.Random) -> Made:
    key, value = drawn.choice(
        [
            ("tau", f"{drawn.randrange(1, 100)}.5"),
            ("record_at", f"[0, {drawn.randrange(1, 1999)}]"),
            ("num_records", str(drawn.randrange(1, 100))),
            ("preset", '"mlp-digits"'),
            ("preset", '"linear-regression"'),
        ]
    )
    return f"{key} = {value} beside its alternative", rendered(TOP | {key: value})


def _wrong_table(drawn: random.Random) -> Made:
    name = drawn.choice(["num_image", "images", "x", "learning_rate", "step", "class", '"a b"'])
    table = drawn.choice(["problem_options", "axes"])
    wrong = ["5", "[]", "[1, true]", '[1, "a"]', "[[1], [1.5]]", "[0.6, 0.6]", "[nan]", "{}"]
    entries = drawn.choice([{name: "[1, 2]"}, {"angle": drawn.choice(wrong)}])
    if table == "problem_options":
        entries = drawn.choice([{name: "1"}, {"angle": "0.6"}, {"num_images": "nan"}])
    tables = TABLES | {table: entries}
    if drawn.random() < 0.2:
        value = drawn.choice(["5", "[]", '"angle"', "true"])
        return f"{table} = {value}", rendered(TOP | {table: value}, {})
    return f"[{table}] {entries}", rendered(TOP, tables)


def _wrong_function(drawn: random.Random) -> Made:
    key = drawn.choice(["problem", "start", "optimizer"])
    name = f"f{drawn.randrange(1000)}"
    references = [
        name, f"{name}:", f":{name}", f"a b:{name}", f"no_such_module_{name}:f", f"math:{name}",
        f"sharpflow.experiments.problems:{name}", f"sharpflow.{name}:f", "math:pi", "math:sin",
        f"sharpflow:{name}:{name}", f"../{name}:f", f"sharpflow.experiments.problems.{name}",
    ]  # fmt: skip
    return _changed(key, f'"{drawn.choice(references)}"')


def _wrong_together(drawn: random.Random) -> Made:
    steps = drawn.randrange(1, 100)
    without = {key: value for key, value in TOP.items() if key not in ("num_steps", "record_every")}
    changes = drawn.choice(
        [
            {"learning_rate": f"{drawn.randrange(2, 90)}.0", "weight_decay": "[0.001, 0.9]"},
            {"tau": f"{steps}.0", "weight_decay": "[0.0, 0.1]"},
            {"tau": f"{steps}e12"},
            {"num_steps": str(steps), "record_at": f"[0, {steps}]"},
            {"num_steps": str(steps), "num_records": str(steps + 1)},
            {"num_steps": "100", "record_at": f"[{steps}, {drawn.randrange(steps + 1)}]"},
            {"num_steps": "10", "optimizer": '"quasi_rmsprop"'},
            {"num_steps": "10", "seed": str([*range(3000 + steps)])} | _many_rates(3000),
        ]
    )
    described = {key: value[:40] for key, value in changes.items()}
    return f"together {described}", rendered(without | changes)


def _damaged(drawn: random.Random) -> Made:
    """A few characters lost, doubled or replaced, until it is no longer TOML."""
    return _until_not_toml(drawn, "damaged", _one_damage)


def _one_damage(drawn: random.Random, text: str) -> str:
    at = drawn.randrange(len(text))
    instead = drawn.choice(["", text[at] * 2, *'"[]{}=,#\\\n', "'", "\t\x01"])
    return text[:at] + instead + text[at + 1 :]


def _truncated(drawn: random.Random) -> Made:
    return _until_not_toml(drawn, "truncated", lambda d, text: VALID.decode()[: d.randrange(600)])


def _until_not_toml(
    drawn: random.Random, what: str, change: Callable[[random.Random, str], str]
) -> Made:
    text = VALID.decode()
    while True:
        text = change(drawn, text)
        try:
            tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            return f"{what}: {error}", text.encode()


def _wrong_bytes(drawn: random.Random) -> Made:
    if drawn.random() < 0.2:
        return "random bytes", b"\xff" + drawn.randbytes(drawn.randrange(1, 300))
    at = drawn.randrange(len(VALID))
    wrong = drawn.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00", b"\xfe\xff", b"\xf8\x88"])
    return f"{wrong!r} at byte {at}", VALID[:at] + wrong + VALID[at:]
