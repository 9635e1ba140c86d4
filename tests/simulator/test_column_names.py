"""No two columns have one name, and no column that of a coordinate, whoever makes it."""

import jax
import jax.numpy as jnp
import pytest

import sharpflow as sf
from sharpflow.models.names import TAKEN
from sharpflow.simulator import Observable
from sharpflow.simulator.columns import RESERVED
from sharpflow.simulator.observables import STANDARD


def _problem(*names):
    return sf.Problem(
        init=lambda key: jnp.ones(3),
        loss=lambda w: 0.5 * jnp.sum(w**2),
        scale_invariant=False,
        metrics=dict.fromkeys(names, lambda w: jnp.sum(w)),
    )


def _simulate(problem, *observables, **keywords):
    return sf.simulate(
        problem, jnp.ones(3), sf.gdwd(0.1, 0.0), 4, observables=observables, **keywords
    )


def _grid(problem, *observables, **keywords):
    arguments = {"seeds": 0, "learning_rates": 0.1, "weight_decays": 0.0, "num_steps": 4}
    return sf.simulate_grid(problem, observables=observables, **(arguments | keywords))


RUNS = pytest.mark.parametrize("run", [_simulate, _grid])


@RUNS
def test_all_names_that_are_taken_are_refused_at_once(run):
    problem = _problem("mine", "plain")
    mine = Observable("mine", lambda moment: {"norm_squared": -moment.loss, "mine": moment.loss})
    group = Observable("group", lambda moment: dict.fromkeys(("loss_mean", "step"), moment.loss))
    with pytest.raises(ValueError, match="columns need names of their own") as refused:
        run(problem, "loss", "metrics", "loss_mean", "norm_squared", mine, group)
    said = str(refused.value)
    for name in ("loss_mean", "step"):
        assert f"'{name}' of 'group' is" in said, said
    assert "'norm_squared' of 'mine' is the name of a column of" in said
    assert "'mine' of 'mine' is recorded by 'metrics' too" in said
    assert "plain" not in said and "rename the metrics" in said


def test_the_names_that_metrics_must_leave_free_are_those_of_all_results():
    assert STANDARD | set(RESERVED) == TAKEN


@pytest.mark.parametrize(
    "name",
    [
        *sorted(TAKEN),
        *(
            "params",
            "final_params",
            "params.u",
            "final_params.u",
            "params_0",
            "params__0",
            "optimizer_state.mu",
        ),
        *("", 7, "\ud800"),
    ],
)
def test_a_metric_with_a_name_that_is_taken_is_refused_where_the_problem_is_made(name):
    made = _problem("plain")
    for call in (
        lambda: _problem("plain", name),
        lambda: made.with_metrics({name: lambda w: jnp.sum(w)}),
    ):
        with pytest.raises(ValueError, match="metrics (has|must be)") as refused:
            call()
        assert repr(name) in str(refused.value)


def test_an_observable_cannot_pass_for_one_of_sharpflows_own():
    for name in sorted(STANDARD):
        with pytest.raises(ValueError, match=f"'{name}' of '{name}' is"):
            _simulate(_problem(), Observable(name, lambda moment: moment.loss))


@RUNS
def test_a_column_is_not_named_as_a_dimension_of_another(run):
    pair = Observable("pair", lambda moment: jnp.ones(2))
    with pytest.raises(ValueError, match="'pair_0' is a dimension of the column 'pair'"):
        run(_problem("pair_0"), pair, "metrics")


def test_a_column_or_a_dimension_is_not_named_as_an_axis_of_the_grid():
    def start(key, learning_rate, weight_decay, width, pair_0):
        return width * pair_0 * jnp.ones(3)

    pair = Observable("pair", lambda moment: jnp.ones(2))
    axes = {"width": [1.0, 2.0], "pair_0": [1.0]}
    with pytest.raises(ValueError, match="columns need names") as refused:
        _grid(_problem("width"), pair, "metrics", axes=axes, start=start)
    said = str(refused.value)
    assert "'width' of 'metrics' is an axis of the grid" in said
    assert "'pair_0' is a dimension of the column 'pair'" in said


def test_axes_whose_names_are_taken_are_refused_at_once():
    axes = {name: [1.0] for name in ("status", "loss", "params", "problem", "a b", "width")}
    with pytest.raises(ValueError, match="axes has 'status', 'loss', 'params', 'problem', 'a b'"):
        _grid(_problem(), "loss", axes=axes)


def test_names_are_refused_before_anything_runs_and_leave_no_folder(tmp_path):
    seen = []

    def look(moment):
        jax.debug.callback(lambda loss: seen.append(loss), moment.loss)
        return {"step": moment.loss}

    for run, keywords in ((_simulate, {}), (_grid, {}), (_grid, {"out": tmp_path / "run"})):
        with pytest.raises(ValueError, match="columns need names"):
            run(_problem(), Observable("look", look), **keywords)
    jax.effects_barrier()
    assert not seen and not (tmp_path / "run").exists()


def test_a_grid_does_not_drop_the_imaginary_part_of_a_column():
    turned = Observable("turned", lambda moment: jax.lax.complex(moment.loss, moment.loss))
    assert _simulate(_problem(), turned)["turned"].imag.all()
    with pytest.raises(ValueError, match="the column 'turned' is complex"):
        _grid(_problem(), turned)


def test_observables_that_share_a_name_but_no_column_stand_side_by_side():
    one = Observable("group", lambda moment: {"one": moment.loss})
    two = Observable("group", lambda moment: {"two": 2.0 * moment.loss})
    run = _simulate(_problem("edge_ratio_of_mine", "norm"), one, two, "metrics", "loss")
    assert set(run.columns) == {"one", "two", "edge_ratio_of_mine", "norm", "loss"}
    assert run["one"].tolist() == run["loss"].tolist() == (run["two"] / 2).tolist()
