"""A trajectory that cannot be predicted is refused with the reason and with what helps."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpflow as sf
from sharpflow.models import caller
from sharpflow.simulator import average
from sharpflow.simulator.no_arrival import Search


def _run(problem, rates, num_steps, snapshot_every=1):
    params = problem.init(jax.random.key(0))
    return sf.simulate(
        problem,
        params,
        sf.gdwd(*rates),
        num_steps,
        record_every=max(num_steps // 20, 1),
        snapshot_every=snapshot_every,
    )


def _refusal(problem, run, **keywords):
    with pytest.raises(ValueError, match="no snapshot lies within arrival_distance") as caught:
        sf.predict(problem, run, kind="sharpness_flow", **keywords)
    told = str(caught.value)
    assert "inf " not in told and "nan " not in told
    return told


def _predict(problem, rates, num_steps, snapshot_every=1, **keywords):
    return _refusal(problem, _run(problem, rates, num_steps, snapshot_every), **keywords)


@pytest.fixture(scope="module")
def completion():
    return sf.models.matrix_completion(shape=(6, 5), rank=1, width=3)


def test_a_loss_that_is_not_invariant():
    problem = sf.Problem(
        init=lambda key: jax.random.normal(key, (3,)), residual=lambda w: jnp.exp(-w) + 1.0
    )
    told = _predict(problem, (0.01, 0.01), 40)
    # the cause first, and what follows from it after it
    assert told.startswith(
        "a manifold on the sphere needs an invariant loss, but the loss is not invariant to the"
    )


def test_a_start_above_the_edge(completion):
    told = _predict(completion, (30.0, 1e-3), 40)
    assert "at the edge before it comes near the manifold: its edge ratio is" in told
    assert "at the start, step 0, and" in told and "kind='central_flow' asks for it" in told
    assert "Lower learning_rate, so that training begins below the edge" in told
    assert "weight_decay" not in told


def test_an_edge_that_comes_after_the_first_snapshot(completion):
    # at the first one the ratio is below 1, and the arrival that is asked for is never reached
    run = _run(completion, (4.0, 1e-3), 400)
    told = _refusal(completion, run, arrival_distance=1e-9)
    assert "Lower weight_decay first: the steps before the edge grow like 1/weight_decay" in told
    step = int(re.search(r"its edge ratio reaches 1 by step (\d+)\.", told).group(1))
    ratios = [
        float(sf.theory.spherical_sharpness(completion, run.snapshot(at).params)[0][0]) / threshold
        for at, threshold in zip(run.snapshot_step, run["threshold"], strict=True)
    ]
    first = int(np.argmax(np.array(ratios) >= 1.0))
    assert step == run.snapshot_step[first] > 0
    # the loss that is asked for lies as far below that of the last snapshot before the edge as the
    # square of its distance lies above the square of the one that counts as arrived
    before, loss, near = re.search(
        r"At step (\d+), the last snapshot before, the loss is (\S+); to be near enough it has to "
        r"fall to about (\S+) there",
        told,
    ).groups()
    params = run.snapshot(int(before)).params
    assert int(before) == run.snapshot_step[first - 1]
    assert float(loss) == pytest.approx(float(completion.loss_value(params)), rel=0.05)
    theta = sf.theory.retract(completion, params)
    unit = jax.tree.map(lambda leaf: leaf / optax.tree.norm(params), params)
    distance = float(optax.tree.norm(optax.tree.sub(unit, theta)))
    assert float(near) == pytest.approx(float(loss) * (1e-9 / distance) ** 2, rel=0.6)
    # what else may be accepted comes after the entry, which is then not predicted
    closest = int(re.search(r"accepts the snapshot of step (\d+)", told).group(1))
    late = "after the entry into the edge, so that no entry is predicted" in told
    assert late == (closest >= step)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_data_that_a_network_cannot_fit(dtype):
    x = np.random.default_rng(0).normal(size=(12, 2)).astype(dtype)

    def residual(w):  # at least 9 in most directions, wherever w points
        return x @ w / jnp.linalg.norm(w) - 9.0

    problem = sf.Problem(init=lambda key: jax.random.normal(key, (2,), dtype), residual=residual)
    told = _predict(problem, (1e-3, 1e-3), 200)
    assert "the retraction has reached the manifold from none of them" in told
    since = re.search(
        r"and (\S+) at the last\. It (was|hardly fell from|rose from) (\S+) half", told
    )
    assert (since.group(2) == "was") == (since.group(1) == since.group(3))
    assert "the network cannot fit its data" in told
    assert "kind='central_flow'" in told and "It still falls" not in told
    assert "train longer" in told and "arrival_distance=" not in told
    # of a retraction that fails in single precision nobody can say that rounding is not the cause
    rounding = "snapshots. They are float32, whose rounding may be the cause" in told
    assert rounding == (dtype == np.float32) and ("jax_enable_x64" in told) == rounding


def test_data_that_a_network_cannot_fit_come_before_the_edge_to_which_it_comes_too(completion):
    # of a matrix of full rank a product of rank one leaves the most
    x = np.random.default_rng(1).normal(size=(5, 5))

    def residual(w):
        row, column = w
        return (jnp.outer(row / jnp.linalg.norm(row), column / jnp.linalg.norm(column)) - x).ravel()

    problem = sf.Problem(init=lambda key: tuple(jax.random.normal(key, (2, 5))), residual=residual)
    told = _predict(problem, (2.0, 1e-2), 400)
    cannot, edge = told.index("the network cannot fit its data"), told.index("its edge ratio")
    assert cannot < edge and "Else the edge is the reason: the trajectory is at the edge" in told
    assert "train longer" not in told and "arrival_distance=" not in told


@pytest.mark.parametrize(
    ("closest", "told", "accepting"),
    [
        (1.0003e-3, "is 0.0010003 away", 1.1e-3),
        (0.02468, "is 0.025 away", 0.025),
        (1.0, "is 1 away", 1.0),
    ],
)
def test_the_closest_distance_is_told_with_one_that_accepts_it(closest, told, accepting):
    search = Search(largest_distance=1e-3, count=3)
    assert not any(map(search.see, [np.nan, 2.0, closest], [0, 5, 10]))
    assert search.in_words == f"the closest, of step 10, {told} from it"
    assert search.accepting == accepting >= closest
    assert Search(largest_distance=search.accepting, count=1).see(closest, 10)


def test_a_run_that_is_too_short_or_recorded_too_seldom(completion):
    told = _predict(completion, (1e-3, 1e-3), 40, snapshot_every=10)
    assert "at the edge" not in told and "train longer" in told
    assert "There are 2 snapshots" in told and "smaller snapshot_every" in told
    accepting, step = re.search(
        r"arrival_distance=(\S+) accepts the snapshot of step (\d+), and so does", told
    ).groups()
    assert 1e-3 < float(accepting) < 1.0 and int(step) == 20


def test_a_search_that_takes_too_long_says_how_far_it_came(completion):
    run = sf.simulate(
        completion, completion.init(jax.random.key(0)), sf.gdwd(1e-3, 1e-3), 40, snapshot_every=10
    )
    with pytest.raises(RuntimeError, match=r"after 0 of 4: max_seconds = 1e-09 are over, and the"):
        sf.predict(completion, run, kind="sharpness_flow", max_seconds=1e-9)


def test_what_falls_back_to_the_central_flow_says_why_before_it_is_integrated(
    completion, capsys, monkeypatch
):
    run = _run(completion, (4.0, 1e-3), 100)
    wanted = _refusal(completion, run, arrival_distance=1e-9)
    options = {"arrival_distance": 1e-9, "num_outputs": 3, "rtol": 0.1}
    order = []
    made, integrate = [], average.central_flow

    def once(*args, progress, **keywords):
        order.append("flow")
        if progress:
            print("integrating", file=sys.stderr)
        if not made:
            made.append(integrate(*args, progress=False, **keywords))
        return made[0]

    monkeypatch.setattr(average, "central_flow", once)
    monkeypatch.setattr(caller.warnings, "warn", lambda words, **_: order.append(words))
    flow = sf.predict(completion, run, **options)
    reason = wanted.removesuffix(" The central flow needs none of this: kind='central_flow' asks for it.")  # fmt: skip # noqa: E501
    assert flow.reason == reason != wanted
    assert order[0].startswith(f"the central flow is taken, because {reason} ")
    assert "kind='central_flow'" in order[0] and order[1:] == ["flow"]
    # a line in place of the warning where progress is shown
    order.clear()
    sf.predict(completion, run, progress=True, **options)
    lines = capsys.readouterr().err.splitlines()
    told = next(i for i, line in enumerate(lines) if f"because {reason}" in line)
    assert order == ["flow"] and "integrating" in lines[told + 1 :]
    # nothing of what was asked for
    order.clear()
    asked = sf.predict(completion, run, kind="central_flow", num_outputs=3, rtol=0.1)
    assert order == ["flow"] and asked.reason == ""

    # the print has the cause and what to change, and not all of it
    for part in ("no snapshot lies within arrival_distance = 1e-09", "Lower weight_decay first"):
        assert part in " ".join(repr(flow).split())
    assert len(repr(flow).splitlines()) <= 12 and "why not on Γ" not in repr(asked)
    compared = sf.compare(run, flow, completion)
    assert compared.attrs["prediction_reason"] == reason
    told = str(sf.simulator.comparison_summary(compared))
    assert "Lower weight_decay first" in " ".join(told.split())
    assert "no snapshot lies within" in told and len(told.splitlines()) <= 12
    assert "prediction_reason" not in sf.compare(run, asked, completion).attrs


def test_a_rule_for_which_no_flow_is_known_is_refused_before_all_else(completion):
    # neither snapshots nor a threshold were recorded, and neither would help
    params = completion.init(jax.random.key(0))
    run = sf.simulate(completion, params, optax.sgd(1e-3), 4, observables=["loss"])
    with pytest.raises(ValueError, match=r"tells no intrinsic rate.*gdwd and momentum with a"):
        sf.predict(completion, run)
    run = sf.simulate(completion, params, sf.gdwd(1e-3, 0.0), 4, observables=["loss"])
    with pytest.raises(ValueError, match="has intrinsic rate 0: its flow time τ stands still"):
        sf.predict(completion, run)
