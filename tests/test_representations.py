"""What is printed of an object is short, whatever is in it, and says what it is."""

import dataclasses
import enum
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_public_names import CLASSES

import sharpflow as sf
from sharpflow.models.representation import MOST_LINES, Summary, course, span, words

WIDEST = 96
# types, not objects; and errors and codes, which print a sentence and a name
PRINTED = {
    name: cls
    for name, cls in CLASSES.items()
    if not issubclass(cls, (Exception, KeyboardInterrupt, enum.Enum))
    and not getattr(cls, "_is_protocol", False)
}
BIG = {"layer": [{"kernel": np.ones((200, 30))}, (np.ones(500), "x" * 500)], "n": np.ones(9)}
FILLINGS = {
    "large": BIG,
    "nothing": None,
    "anything": object(),
    "a shape": jax.ShapeDtypeStruct((3, 4), jnp.float32),
    "lines": "one\ntwo\n" * 50,
    "many": {f"name{i}": np.ones((40, 40)) for i in range(99)},
    "a flag": True,
}


def _filled(cls, value):
    """An instance with one value in every field, as jax makes them for its own purposes."""
    if hasattr(cls, "_fields"):
        return cls(*[value] * len(cls._fields))
    made = object.__new__(cls)
    for name in getattr(cls, "__dataclass_fields__", ()):
        object.__setattr__(made, name, value)
    return made


def _is_short(printed):
    lines = printed.splitlines()
    return 1 <= len(lines) <= MOST_LINES == 12 and max(map(len, lines)) <= WIDEST


@pytest.mark.parametrize("name", [n for n in PRINTED if not n.endswith((".Images", ".Problem"))])
def test_a_public_object_prints_at_most_twelve_lines_whatever_it_holds(name):
    cls, told = PRINTED[name], []
    if getattr(cls, "__dataclass_fields__", None) is None and not hasattr(cls, "_fields"):
        pytest.skip("no object with fields")
    for value in FILLINGS.values():
        told.append(repr(_filled(cls, value)))

    def traced(x):
        told.append(repr(_filled(cls, x)))
        return x

    jax.eval_shape(traced, jnp.ones((50, 50)))
    assert all(map(_is_short, told)), next(each for each in told if not _is_short(each))


def test_a_pytree_of_ours_prints_where_jax_has_taken_its_arrays_out():
    problem = sf.models.linear_regression(np.eye(4, 3), np.ones(4) * [1, 2, 3, 4])
    for tree in (problem, sf.theory.linearize(lambda w: w[:2] * w[1], np.ones(3))):
        _, structure = jax.tree.flatten(tree)
        for hole in (None, object(), "x"):
            assert _is_short(repr(jax.tree.unflatten(structure, [hole] * structure.num_leaves)))


@pytest.fixture(scope="module")
def run():
    problem = sf.models.matrix_completion(shape=(4, 4), rank=1)
    rule = sf.gdwd(0.5, 0.01)
    return sf.simulate(
        problem, problem.init(jax.random.key(0)), rule, 20, record_every=2, snapshot_every=5
    )


def _flow(status=0):
    rows = np.array([1.0, 2.0, np.nan if status else 3.0])
    return sf.FlowSolution(
        tau=jnp.array([0.0, 0.5, 1.0]), theta={"w": np.ones((3, 40))}, threshold=8 * rows,
        eigenvalues=np.stack([8 * rows, rows], axis=1), edge_covariance=np.ones((3, 2, 2)),
        status=jnp.asarray(status), num_steps=jnp.asarray(12), num_rejected=np.asarray(1),
        b=2.0, on_sphere=True,
    )  # fmt: skip


def _central():
    rows = np.array([1.0, 2.0, 3.0])
    return sf.CentralFlowSolution(
        tau=rows, params=np.ones((3, 5)), loss=rows, mean_loss=rows, eigenvalues=rows[:, None],
        covariance=np.ones((3, 1, 1)), norm_squared=rows, edge=np.asarray(4.0),
        status=np.asarray(0), num_steps=np.asarray(3), num_rejected=np.asarray(0),
        num_gradients=np.asarray(7), num_products=np.asarray(8), num_third=np.asarray(9),
    )  # fmt: skip


def test_the_main_results_say_how_they_ended_and_what_they_hold(run):
    for printed, parts in {
        repr(run): ("SUCCESS after 20 steps", "0 to 18, 10 values", "ηλ = 0.005", "2 snapshots of"),
        repr(_flow()): ("SUCCESS", "0 to 1, 3 values", "2 followed; λ₁ 8 → 24", "12, 1 rejected"),
        repr(_flow(sf.Status.MAX_STEPS)): ("MAX_STEPS after τ = 0.5", "8 → 16, 1 of 3 not finite"),
        repr(_central()): ("SUCCESS", "mean loss", "edge 2/η − λ = 4", "7 ∇L, 8 ∇²L v, 9 ∇³L"),
        repr(run.snapshot(10)): ("step               10", "ηλ  0.005", "in 2 arrays"),
    }.items():
        assert _is_short(printed) and all(part in printed for part in parts), printed


def test_the_reason_for_a_central_flow_is_printed_and_no_array_of_it():
    reason = "no snapshot lies within reach; " + "the trajectory is at the edge before that, " * 9
    flow = dataclasses.replace(_central(), reason=reason)
    printed = repr(flow)
    assert _is_short(printed) and "why not on Γ  no snapshot lies within reach; the" in printed
    assert printed.endswith(" …") and len(printed.splitlines()) == 12
    assert len(jax.tree.leaves(flow)) == len(jax.tree.leaves(_central()))
    for same in (
        jax.jit(lambda x: x)(flow),
        jax.vmap(lambda x: x)(jax.tree.map(lambda leaf: leaf[None], flow)),
    ):
        assert same.reason == reason


def test_a_fork_says_how_many_steps_it_has_made_itself(run):
    problem, rule = sf.models.matrix_completion(shape=(4, 4), rank=1), sf.gdwd(0.5, 0.01)
    for start in (run, run.snapshot(20)):
        fork = sf.simulate(problem, start, rule, 20, record_every=2, snapshot_every=5)
        assert "SUCCESS after 20 steps, from 20 to 40" in repr(fork)
    assert repr(run).splitlines()[0] == "Trajectory: SUCCESS after 20 steps"


def test_of_many_columns_the_losses_and_a_sharpness_with_its_threshold_are_shown(run):
    names = ["a", "b", "c", "d", "loss", "loss_mean", "norm_squared", "sharpness_iterate"]
    columns = dict.fromkeys([*names, "test_error", "threshold"], run["loss"])
    printed = repr(dataclasses.replace(run, columns=columns))
    told = [line.split()[0] for line in printed.splitlines()[5:-1]]
    assert _is_short(printed)
    assert told == ["loss", "loss_mean", "sharpness_iterate", "threshold", "a", "b"]


def test_problems_plans_rules_and_observables_say_what_they_are(run):
    problem = sf.Problem(
        init=lambda key: jnp.ones(2), loss=lambda w: jnp.sum(w), metrics={"norm": jnp.sum},
        scale_invariant=False,
    )  # fmt: skip
    plan = sf.simulator.GridPlan(
        shape={"seed": 3, "learning_rate": 2}, updates=6000, layouts=(), memory_bytes=3 << 20,
        peak_bytes=None, stored_bytes=2048, seconds=90.0,
    )  # fmt: skip
    spec = sf.simulator.GridSpec(
        problem, seeds=range(900), learning_rates=[0.1] * 50, weight_decays=0.1, num_steps=7
    )
    images = sf.models.data.arrays(np.ones((4, 9)), np.array([0, 1, 0, 1]))
    for made, parts in (
        (problem, ("by its loss", "norm", "marked as not", "no: a loss alone")),
        (plan, ("6 points", "3 seed, 2 learning_rate", "6,000", "3 MiB", "2 KiB", "90 seconds")),
        (spec, ("range(0, 900)", "50 entries", "num_steps       7")),
        (
            sf.sharpness(at="manifold"),
            ("'sharpness_manifold'", "edge_ratio_manifold", "place='manifold'"),
        ),
        (sf.gdwd(0.5, 0.01), ("gdwd(learning_rate=0.5, weight_decay=0.01)",)),
        (sf.simulator.momentum(0.5), ("momentum(learning_rate=0.5, weight_decay=0, beta=0.9)",)),
        (sf.models.Transformer(), ("Transformer", "num_heads      4")),
        (run.final_state, ("step             20", "params")),
        (images, ("Images(n=4, 9, 2 classes",)),
    ):
        assert _is_short(repr(made)) and all(p in repr(made) for p in parts), repr(made)


def test_a_rule_that_prints_itself_is_still_one_of_optax():
    rule = sf.gdwd(0.5, 0.01)
    chained = optax.chain(rule, optax.scale(1.0))
    assert isinstance(rule, optax.GradientTransformation) and rule.init is rule[0]
    assert len(jax.tree.leaves(chained.init(jnp.ones(2)))) == 2
    assert "function" in repr(rule._replace(init=rule.init))  # nobody knows what it is now


def test_a_table_for_a_notebook_escapes_what_a_user_wrote(run):
    for made in (run, _flow(), _central(), sf.models.matrix_completion(shape=(4, 4), rank=1)):
        table = made._repr_html_()
        heading = repr(made).splitlines()[0]
        assert table.count("<tr>") == len(repr(made).splitlines()) - 1 and heading in table
    table = Summary("a < b", [("<script>", "x & 'y'")]).as_html()
    assert "<script>" not in table and "&lt;script&gt;" in table and "&amp;" in table


def test_of_too_many_lines_the_names_of_the_rest_are_told():
    printed = Summary("many", [(f"line{i}", str(i)) for i in range(30)]).as_text()
    assert len(printed.splitlines()) == MOST_LINES and "line9, line10" not in printed
    assert printed.splitlines()[-1].split()[:2] == ["and", "line10,"]
    twelve = Summary("all", [(f"line{i}", str(i)) for i in range(11)]).as_text()
    assert len(twelve.splitlines()) == MOST_LINES and "and" not in twelve


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.float32(0.5), "0.5"),
        (jnp.arange(3), "0, 1, 2"),
        (np.arange(9.0), "0 ... 8, shape (9,)"),
        (np.ones((2, 3), bool), "bool of shape (2, 3)"),
        ({"a": np.ones(2), "b": [np.ones((2, 2))]}, "6 numbers in 2 arrays, float64"),
        (jnp.ones(2, jnp.bfloat16), "1, 1"),
        (jax.random.key(0), "key<fry>"),
        ((), "()"),
    ],
)
def test_words_for_values(value, told):
    assert words(value) == told


def test_a_column_is_told_by_its_ends():
    assert course(np.array([[1.0, 3.0], [2.0, np.nan], [5.0, 4.0]])).startswith("3 → 5")
    assert course(np.array([3.0 + 4.0j, 1.0j])) == "5 → 1 in absolute value"
    assert course(np.full(3, np.nan)) == "NaN" and course(np.zeros(0)) == "none"
    assert span([3]) == "3" and span([]) == "none" and span([0, 5, 1000]) == "0 to 1,000, 3 values"


def test_a_status_prints_its_name_and_is_an_integer():
    status = sf.Status.DIVERGED
    assert str(status) == f"{status}" == "DIVERGED" and f"{status:>9}" == " DIVERGED"
    assert status == 5 and f"{status:03d}" == "005" and json.dumps(status) == "5"
    codes = jax.vmap(lambda failed: jnp.where(failed, status, sf.Status.SUCCESS))(np.array([1, 0]))
    assert codes.tolist() == [5, 0]
