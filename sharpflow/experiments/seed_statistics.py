"""What a few seeds say of all seeds: a mean and a rank correlation, each with its interval."""

from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
# Draws of the seeds. The ends of an interval then vary by a few hundredths of its width from one
# seed of the draws to another; ten times as many would take a second for a large grid.
_DRAWS = 2000
FEWEST_POINTS = 5
FEWEST_SEEDS = 5


class MeanInterval(NamedTuple):
    """The mean over seeds and Student's interval for it.

    Attributes:
      mean: of the seeds that have a value; NaN where none has.
      low, high: ends of the interval; NaN of fewer than two seeds.
      num_seeds: that have a value.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    num_seeds: np.ndarray

    @property
    def excludes_zero(self) -> np.ndarray:
        """Whether 0 lies outside the interval; False where there is none."""
        return (self.low > 0.0) | (self.high < 0.0)


class RankCorrelation(NamedTuple):
    """Spearman's rank correlation with an interval from draws of the seeds.

    Attributes:
      value: from −1 to 1; NaN where there are fewer than five points, or one of the two does not
        vary.
      low, high: ends of the interval; NaN where there is no value, or of fewer than five seeds.
      num_points: that have both values.
    """

    value: float
    low: float
    high: float
    num_points: int


def mean_interval(values: np.ndarray, *, confidence: float = CONFIDENCE) -> MeanInterval:
    """The mean along the first axis, without what is NaN, and Student's interval for it.

    Seeds are independent of each other, and of normally distributed values the interval contains
    the true mean with this probability, however few seeds there are.

    Args:
      values: shape (seeds, ...).
      confidence: of the interval.

    Returns:
      Shapes (...).
    """
    from scipy.special import stdtrit

    values = np.asarray(values, dtype=np.float64)
    known = np.isfinite(values)
    count = known.sum(axis=0)
    mean = np.where(known, values, 0.0).sum(axis=0) / np.where(count > 0, count, np.nan)
    squares = np.where(known, values - mean, 0.0) ** 2
    freedom = np.where(count > 1, count - 1.0, np.nan)
    error = np.sqrt(squares.sum(axis=0) / freedom / np.maximum(count, 1))
    reach = stdtrit(freedom, 0.5 * (1.0 + confidence)) * error
    return MeanInterval(mean, mean - reach, mean + reach, count)


def rank_correlation(
    x: np.ndarray, y: np.ndarray, *, confidence: float = CONFIDENCE, seed: int = 0
) -> RankCorrelation:
    """Spearman's rank correlation over all points, with an interval over the seeds.

    Points of one seed share its start, so that they are not independent of each other. Whole seeds
    are therefore drawn, with replacement, and each draw has all points of its seeds. The interval
    lies between percentiles of the draws. Of few seeds it is too narrow: two of them have three
    different draws. So fewer than five have none.

    Args:
      x, y: shapes (seeds, points), NaN where a point has no value.
      confidence: of the interval.
      seed: of the draws.

    Returns:
      The correlation.
    """
    x, y = (np.asarray(values, dtype=np.float64) for values in (x, y))
    known = np.isfinite(x) & np.isfinite(y)
    x, y = (np.where(known, values, np.nan) for values in (x, y))
    count, seeds = int(known.sum()), np.flatnonzero(known.any(axis=1))
    value = _spearman(x[known], y[known]) if count >= FEWEST_POINTS else np.nan
    if not np.isfinite(value) or len(seeds) < FEWEST_SEEDS:
        return RankCorrelation(value, np.nan, np.nan, count)
    drawn = np.random.default_rng(seed).choice(seeds, (_DRAWS, len(seeds)))
    values = np.array([_spearman_of_known(x[rows], y[rows]) for rows in drawn])
    tail = 50.0 * (1.0 - confidence)
    # A draw in which one of the two does not vary has no correlation, and says nothing of it.
    low, high = np.nanpercentile(values, [tail, 100.0 - tail])
    return RankCorrelation(value, float(low), float(high), count)


def _spearman_of_known(x: np.ndarray, y: np.ndarray) -> float:
    known = np.isfinite(x)
    return _spearman(x[known], y[known])


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    """The correlation of the ranks, equal values sharing their mean rank; NaN without variation."""
    ranks = _ranks(x), _ranks(y)
    first, second = (rank - rank.mean() for rank in ranks)
    spread = np.sqrt(np.sum(first**2) * np.sum(second**2))
    return float(np.sum(first * second) / spread) if spread > 0.0 else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 on. scipy.stats has them too, and takes longer to load than all draws take."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - 0.5 * (counts + 1.0))[place]
