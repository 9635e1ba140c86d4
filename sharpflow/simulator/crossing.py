"""When a trajectory enters the edge, and from when on averages at the edge begin."""

import numpy as np

# Steps of the intrinsic rate by which a start may miss the edge, and be on it. A start at the edge
# is found by an iteration and rounded to the dtype; ten steps are far fewer than any entry takes.
_AT_EDGE = 10.0

# Edge ratio below which a start that was above the edge has left it. On Γ the ringing after an
# entry seldom goes as far down; a burst from far above the edge goes to half of it and less.
_LEFT = 0.9

# Flow time that averages leave out after the oscillation has answered the entry. It comes in bursts
# about this far apart at ηλ = 1e-3, of which the first is the largest. With a tenth of it the
# average begins within that burst: on matrix completion the mean loss over its prediction is then
# 0.990 at 0.01 and 0.980 at 0.03, beside 0.995 at 0.1 and 0.998 at 0.2. With ten times as much a
# run must go on for τ = 1 after its entry before anything is averaged.
SETTLE_TAU = 0.1

# Share of the loss at equilibrium that counts as the answer to the entry. The oscillation grows
# faster than exponentially, so that the whole of it comes a few steps later; but means over long
# windows may stay some per cent below their prediction, and then the whole would be waited for in
# vain. At a tenth of this share, what training has left of the loss may pass for an answer.
_ANSWER = 0.5


def entry_step(step: np.ndarray, log_ratio: np.ndarray, intrinsic_rate: float) -> float:
    """The step at which the Edge of Stability is entered; NaN where it is not.

    It is entered where the edge ratio first rises through 1 from below. Two starts count as entered
    at their first record: one at the edge, whatever the rounding of its norm; and one above the
    edge that stays there, as that of a run that goes on from the edge. A start above the edge that
    falls below it, as the first burst throws it, has entered nothing before it rises again.

    Args:
      step: of the records, shape (T,).
      log_ratio: log λ_1/λ* at each, finite, shape (T,).
      intrinsic_rate: flow time per step.
    """
    entry = first_crossing(step, log_ratio)
    if begins_at_edge(log_ratio, intrinsic_rate):
        before = log_ratio[~(step >= entry)]
        near = log_ratio[0] <= _AT_EDGE * intrinsic_rate
        if near or before.min() >= np.log(_LEFT):
            return float(step[0])
    return entry


def begins_at_edge(log_ratio: np.ndarray, intrinsic_rate: float) -> bool:
    """Whether the first record is at the edge, up to the rounding of a start there, or above it.

    Args:
      log_ratio, intrinsic_rate: as of ``entry_step``.
    """
    return bool(log_ratio.size and log_ratio[0] >= -_AT_EDGE * intrinsic_rate)


def first_crossing(step: np.ndarray, excess: np.ndarray) -> float:
    """Where ``excess`` first rises through zero, interpolated; NaN where it does not.

    Args:
      step: of the records, shape (T,).
      excess: at each, shape (T,). One that begins at or above zero has to fall below it first.
    """
    rising = np.flatnonzero((excess[:-1] < 0.0) & (excess[1:] >= 0.0))
    if not rising.size:
        return float("nan")
    before, after = rising[0], rising[0] + 1
    share = excess[before] / (excess[before] - excess[after])
    return float(step[before] + share * (step[after] - step[before]))


def settled_step(
    step: np.ndarray,
    entry: float,
    intrinsic_rate: float,
    excess: np.ndarray | None = None,
    equilibrium: np.ndarray | None = None,
    *,
    settle_tau: float = SETTLE_TAU,
) -> float:
    """The step from which on averages at the edge are taken.

    The oscillation answers the entry late, when it has grown to the size that holds the sharpness
    at the edge, and rings for a while. Means "after the entry" begin after both.

    Args:
      step: of the records, shape (T,).
      entry: step of the entry; NaN where there is none.
      intrinsic_rate: flow time per step.
      excess: mean loss above its infimum at each record, shape (T,).
      equilibrium: the mean loss that theory predicts at each, shape (T,). Where one of the two is
        not known the answer counts as given at the entry.
      settle_tau: flow time that is left out after the answer.

    Returns:
      The step; infinite without an entry or an answer to it.
    """
    if not np.isfinite(entry):
        return np.inf
    answered = entry
    if excess is not None and equilibrium is not None:
        grown = (step >= entry) & (excess >= _ANSWER * equilibrium) & (equilibrium > 0)
        answered = float(step[np.argmax(grown)]) if grown.any() else np.inf
    return answered + settle_tau / intrinsic_rate


def known_mean(values: np.ndarray) -> float:
    """The mean of the values that are finite; NaN where there is none.

    Args:
      values: any shape.
    """
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")
