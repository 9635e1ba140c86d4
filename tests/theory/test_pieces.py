"""Integrations in pieces: the same bits, heard signals, limits of time, and flows that stall."""

import dataclasses
import importlib
import os
import signal
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf
from sharpflow.theory import (
    Status,
    central_integration,
    flow_integration,
    integration,
    manifold,
    pieces,
)
from sharpflow.theory.failure import Standing
from sharpflow.theory.integration import Progress, Trial

TAU = np.linspace(0.0, 2.0, 9)  # as in test_flow_exact.py: the same compiled flow serves both


@pytest.fixture
def one_by_one(monkeypatch):
    """Pieces of one step each; tells how many there were."""
    made = []
    end = pieces.Pace.end
    monkeypatch.setattr(pieces, "_PIECE_SECONDS", 0.0)
    monkeypatch.setattr(pieces.Pace, "end", lambda self: (made.append(self.count), end(self)))
    return made


@pytest.fixture(scope="module")
def start(regression):
    return sf.theory.retract(regression.problem, jnp.asarray(regression.at(1.0)) + 0.1)


def _flow(problem, start, **options):
    return sf.sharpness_flow(problem, start, TAU, **options)


BOWL = sf.Problem(
    init=lambda _: jnp.ones(2),
    loss=lambda w: 0.5 * jnp.sum(jnp.asarray([1.0, 0.1]) * jnp.square(w)),
)


def _central(problem, start, **options):
    del problem, start
    return sf.central_flow(BOWL, jnp.ones(2), 0.05, 0.01, TAU, max_edge=1, **options)


def _snapshots(problem, start, **options):
    path = jnp.stack([start + 0.02 * index for index in range(4)])
    return sf.simulator.project_snapshots(problem, path, **options)


def _retraction(problem, start, **options):
    return sf.theory.retract(problem, start + 0.1, **options)


COMPILED = (flow_integration.integrate, central_integration.integrate, manifold._go_on)


@pytest.mark.parametrize("compute", [_flow, _central, _retraction])
def test_pieces_give_the_same_bits_and_compile_nothing_more(
    regression, start, compute, monkeypatch, request
) -> None:
    monkeypatch.setattr(pieces, "_PIECE_SECONDS", 1e9)
    whole = compute(regression.problem, start)
    compiled = [function._cache_size() for function in COMPILED]
    monkeypatch.undo()
    made = request.getfixturevalue("one_by_one")
    in_pieces = compute(regression.problem, start)
    assert len(made) > 2 and set(made) <= {1, 2}
    assert compiled == [function._cache_size() for function in COMPILED]
    jax.tree.map(np.testing.assert_array_equal, whole, in_pieces)


@pytest.mark.parametrize("compute", [_flow, _central])
def test_an_interrupt_is_heard_between_two_pieces(
    regression, start, compute, one_by_one, monkeypatch
) -> None:
    begin = pieces.Pace.begin

    def asked(self):
        if len(one_by_one) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        begin(self)

    monkeypatch.setattr(pieces.Pace, "begin", asked)
    with pytest.raises(KeyboardInterrupt):
        compute(regression.problem, start)
    assert len(one_by_one) == 2


@pytest.mark.parametrize("compute", [_flow, _central])
def test_a_flow_ends_at_its_limit_of_time_with_what_it_has(
    regression, start, compute, one_by_one, monkeypatch
) -> None:
    whole = compute(regression.problem, start)
    clock = iter(np.arange(10_000.0))
    monkeypatch.setattr(pieces.time, "monotonic", lambda: next(clock))
    ended = compute(regression.problem, start, max_seconds=20.0, throw=False)
    assert Status(int(ended.status)) == Status.MAX_SECONDS
    reached = np.isfinite(np.asarray(ended.eigenvalues[:, 0]))
    assert reached[0] and not reached[-1] and np.all(np.diff(reached.astype(int)) <= 0)
    np.testing.assert_array_equal(ended.eigenvalues[reached], whole.eigenvalues[reached])
    told = r"max_seconds seconds did not .*it stands at tau = .* of 2 after \d+ steps and .*"
    with pytest.raises(RuntimeError, match=told + "max_seconds, of which .* had 20, must grow"):
        compute(regression.problem, start, max_seconds=20.0)


def test_traced_params_get_one_call(monkeypatch) -> None:
    pauses, integrate = [], central_integration.integrate

    def called(problem, params, start, path, pause, **given):
        pauses.append(int(pause))
        return integrate(problem, params, start, path, pause, **given)

    # by its name, which in the package is that of the function
    module = importlib.import_module("sharpflow.theory.central_flow")
    monkeypatch.setattr(module, "integrate", called)

    def solution(params):
        return sf.central_flow(BOWL, params, 0.05, 0.01, TAU, max_edge=1, throw=False)

    assert jax.eval_shape(solution, jnp.ones(2)).norm_squared.shape == TAU.shape
    assert pauses == [pieces.UNBROKEN]


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        (_flow, ["sharpness flow: compiling ...", "100% of tau = 2", "1 eigenvalue at the edge"]),
        (_central, ["central flow: compiling ...", "100% of tau = 2", "steps, now of"]),
        (_snapshots, ["projection: compiling ...", "100% of 4 snapshots"]),
        (_retraction, ["retraction: compiling ..."]),
    ],
)
def test_progress_is_shown_where_it_is_asked_for(regression, start, compute, said, capsys) -> None:
    compute(regression.problem, start)
    assert capsys.readouterr().err == ""
    compute(regression.problem, start, progress=True)
    shown = capsys.readouterr().err
    assert not [words for words in said if words not in shown], shown


class _Place(NamedTuple):
    x: jax.Array


@dataclasses.dataclass(frozen=True)
class _Kinks:
    """dx/dt = 1, with a kink in every interval of 1e-9 beyond x = 1 that fails a step across it.

    Attributes:
      part: the status of such a step; ``SUCCESS`` for one whose error is too large.
    """

    part: Status
    order = 2
    largest_growth = 4.0
    smallest_step = 1e-12

    def measure(self, point):
        return point, jnp.zeros((), jnp.int32)

    def row(self, measure, time):
        del time
        return measure, jnp.zeros((), jnp.int32)

    def attempt(self, measure, step, span):
        del span
        end = measure.x + step
        crossed = (end > 1.0) & (step > 1e-9)
        error = jnp.where(crossed, 1.0, 1e-9)
        status = jnp.where(crossed, jnp.int32(self.part), jnp.int32(Status.SUCCESS))
        return Trial(_Place(end), measure, error, jnp.asarray(False), status)


@partial(jax.jit, static_argnums=2)
def _across_kinks(last, max_steps, part):
    times, one = jnp.stack([jnp.zeros(()), last]), jnp.ones(())
    return integration.integrate(
        _Kinks(part),
        Progress.begun(_Place(times[0]), time=times[0], step=0.1 * one),
        _Place(jnp.full(2, jnp.nan)),
        times,
        rtol=1e-3 * one,
        step_size=jnp.nan * one,
        max_steps=max_steps,
        pause=jnp.asarray(pieces.UNBROKEN, jnp.int32),
    )


@pytest.mark.parametrize(
    ("last", "max_steps", "part", "status"),
    [
        (1.0, 10_000, Status.SUCCESS, Status.SUCCESS),
        (2.0, 10_000, Status.SUCCESS, Status.STALLED),
        (2.0, 10_000, Status.RETRACTION_FAILED, Status.RETRACTION_FAILED),
        # so many steps might do
        (1.0 + 1e-6, 10_000, Status.SUCCESS, Status.SUCCESS),
        (2.0, 40, Status.SUCCESS, Status.MAX_STEPS),
    ],
)
def test_a_flow_that_gets_nowhere_says_so_and_one_that_is_slow_goes_on(
    last, max_steps, part, status
) -> None:
    end, rows = _across_kinks(jnp.asarray(last), jnp.asarray(max_steps, jnp.int32), part)
    assert Status(int(end.status)) == status
    assert np.isfinite(rows.x[-1]) == (status == Status.SUCCESS)
    if status in (Status.STALLED, Status.RETRACTION_FAILED):
        assert int(end.num_attempts) <= 150


@pytest.mark.parametrize(
    ("standing", "status", "said", "unsaid"),
    [
        ({}, Status.MAX_STEPS, ["max_steps = 7 must grow"], ["relu", "every eigenvalue"]),
        ({}, Status.STALLED, ["relu", "softplus"], ["must grow"]),
        ({"step": 1e-6}, Status.MAX_SECONDS, ["had 3, must grow", "relu"], ["every eigenvalue"]),
        ({"num_rejected": 6}, Status.MAX_STEPS, ["max_steps", "relu"], ["every eigenvalue"]),
        ({"num_at_edge": 6}, Status.MAX_SECONDS, ["every eigenvalue at the edge"], ["relu"]),
    ],
)
def test_a_limit_is_told_with_the_reason_that_shows(standing, status, said, unsaid) -> None:
    usual = {"tau": 0.5, "last_tau": 1.0, "step": 0.05, "num_steps": 6}
    there = Standing(**(usual | {"num_rejected": 1, "num_at_edge": 1} | standing))
    assert "stands at tau = 0.5 of 1 after 6 steps" in there.in_words()
    remedy = there.remedy(status, 7, 3.0)
    assert all(words in remedy for words in said)
    assert not any(words in remedy for words in unsaid)
