"""What the mean-field limit of wide random networks says of their Fisher information."""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import numpy as np

from sharpflow.models import RandomNetwork
from sharpflow.models.activations import in_double, second_moment, variance
from sharpflow.models.arguments import INTEGER, checked, instance
from sharpflow.models.representation import summarized


@summarized
@dataclasses.dataclass(frozen=True)
class OrderParameters:
    """The numbers that the statistics of a wide random network depend on.

    Attributes:
      width: M, that of the first hidden layer, in which the others are measured.
      alpha: α = Σ_{l=1}^{L−1} M_l M_{l−1}/M²; the network has about α M² parameters.
      kappa1: κ_1: α M κ_1 is the squared norm of the gradient of an output, in expectation.
      kappa2: κ_2: α M κ_2 is the product of the gradients of an output at two samples.
      variance: E f_c(t)².
      covariance: E f_c(s) f_c(t) of two samples; their difference is what the mean over
        a large batch leaves of the variance.
    """

    width: int
    alpha: float
    kappa1: float
    kappa2: float
    variance: float
    covariance: float


@summarized
@dataclasses.dataclass(frozen=True)
class FisherPrediction:
    """Statistics of the spectrum of F for a wide network and T samples, NaN where unknown.

    Attributes:
      mean: tr F/P over the P parameters.
      second_moment: tr F²/P.
      largest: the largest eigenvalue; C eigenvalues share it. NaN without the mean.
      lower_bound: of the largest eigenvalue: itself, or the mean of all that are not zero.
    """

    mean: float
    second_moment: float
    largest: float
    lower_bound: float


NETWORK = instance(RandomNetwork, "a sharpflow.models.RandomNetwork")


@checked(network=NETWORK, num_samples=INTEGER)
def fisher_prediction(network: RandomNetwork, num_samples: int) -> FisherPrediction:
    """The mean-field statistics of F for independent standard normal inputs.

    In the limit of large widths F* is, for each output, α M/T times κ_1 on the diagonal and
    κ_2 off it, up to O(1/√M) relative; between outputs it vanishes. Thus

        λ_max = α M ((T − 1) κ_2 + κ_1)/T,  with the eigenvector 1 for each output,

    and α M (κ_1 − κ_2)/T for all others. Subtracting the mean takes 1 away, and leaves that
    as the mean of the C (T − 1) others, a lower bound of the largest; batch norm takes one
    more per output, and divides by its variance. Batch norm in the hidden layers leaves only
    the last layer to λ_max: M_{L−1} (E φ(z))², z standard normal, for large T.

    Args:
      network: any; with batch norm in hidden and last layer nothing is known.
      num_samples: T.

    Returns:
      The statistics, NaN where they are not known.

    Raises:
      ValueError: a network without hidden layers, or fewer than two samples.

    Source: Karakida, Akaho and Amari 2019, arXiv 1806.01316, for the spectrum without
    normalization; docs/wide-networks.md for the others.
    """
    if num_samples < 2:
        raise ValueError(f"num_samples must be at least 2, got {num_samples}")
    if network.normalization == "batch":
        return _of_hidden_batch_norm(network)
    order, t, c = order_parameters(network), num_samples, network.widths[-1]
    scale = order.alpha * order.width
    num_params = sum((m + 1) * n for m, n in itertools.pairwise(network.widths))
    bulk = scale * (order.kappa1 - order.kappa2) / t
    if network.output_normalization == "none":
        largest = scale * ((t - 1) * order.kappa2 + order.kappa1) / t
        return FisherPrediction(
            mean=c * scale * order.kappa1 / num_params,
            second_moment=c * (largest**2 + (t - 1) * bulk**2) / num_params,
            largest=largest,
            lower_bound=largest,
        )
    removed = 1  # the mean
    if network.output_normalization == "batch":
        bulk /= order.variance - order.covariance
        removed = 2  # and the direction of the outputs themselves
    return FisherPrediction(
        mean=c * (t - removed) * bulk / num_params,
        second_moment=np.nan,
        largest=np.nan,
        lower_bound=bulk,
    )


def _of_hidden_batch_norm(network: RandomNetwork) -> FisherPrediction:
    """Σ_t f(t) depends on earlier layers through batch means of φ(û), which are all E φ(z)."""
    squared_mean = second_moment(network.activation) - variance(network.activation)
    largest = network.widths[-2] * squared_mean
    if network.output_normalization != "none":
        largest = np.nan
    return FisherPrediction(mean=np.nan, second_moment=np.nan, largest=largest, lower_bound=largest)


@checked(network=NETWORK)
def order_parameters(network: RandomNetwork) -> OrderParameters:
    """κ_1, κ_2 and the moments of the outputs, by the mean-field recursions.

    With q_1 the value at one sample and q_2 that of two, forwards from q̂⁰ = (1, 0),

        q^l = σ_w² q̂^{l−1} + σ_b²,   q̂^l = E φ(u)φ(v),   u, v ~ N(0, q_1^l), covariance q_2^l,

    backwards from q̃^L = (1, 1), q̃^l = σ_w² q̃^{l+1} E φ'(u^l)φ'(v^l), and

        κ = Σ_{l=1}^L (M_{l−1}/(α M)) q̃^l q̂^{l−1}.

    Layer norm divides u^l by √q_1^l: the mean over the units that it subtracts, and what its
    derivative projects out, vanish with the width.

    Args:
      network: with hidden layers that batch norm does not normalize; the normalization of
        the outputs is left out.

    Returns:
      The order parameters.

    Raises:
      ValueError: a network without hidden layers, or with batch norm in them.

    Source: Karakida, Akaho and Amari 2019, arXiv 1806.01316; Poole et al. 2016;
    Schoenholz et al. 2017; Cho and Saul 2009 for the ReLU. Layer norm: docs/wide-networks.md.
    """
    if network.normalization == "batch":
        raise ValueError(
            "network must have hidden layers that do not mix samples, got "
            f"normalization={network.normalization!r}"
        )
    sizes = network.widths[:-1]
    if len(sizes) < 2:
        raise ValueError(f"network must have a hidden layer, got widths {network.widths}")
    value, slope = _pair_expectations(network.activation)
    weights, biases = network.weight_variance, network.bias_variance

    signals = [np.array([1.0, 0.0])]  # q̂, of a sample with itself and with another
    slopes = []
    for _ in sizes[1:]:
        q = weights * signals[-1] + biases
        divisor = q[0] if network.normalization == "layer" else 1.0
        q = q / divisor
        signals.append(np.array([value(q[0], q[0]), value(q[0], q[1])]))
        slopes.append(np.array([slope(q[0], q[0]), slope(q[0], q[1])]) / divisor)
    gradients = [np.ones(2)]  # q̃, from the last layer to the first
    for factor in reversed(slopes):
        gradients.append(weights * gradients[-1] * factor)

    width = sizes[1]
    alpha = sum(m * n for m, n in itertools.pairwise(sizes)) / width**2
    kappa = sum(
        size / (alpha * width) * gradient * signal
        for size, gradient, signal in zip(sizes, reversed(gradients), signals, strict=True)
    )
    output_variance, output_covariance = weights * signals[-1] + biases
    return OrderParameters(
        width=width,
        alpha=alpha,
        kappa1=float(kappa[0]),
        kappa2=float(kappa[1]),
        variance=float(output_variance),
        covariance=float(output_covariance),
    )


Pair = Callable[[float, float], float]


def _pair_expectations(activation: str) -> tuple[Pair, Pair]:
    """E φ(u)φ(v) and E φ'(u)φ'(v) as functions of the variance and the covariance ≥ 0."""
    if activation == "relu":
        return _relu_value, _relu_slope
    value, slope = in_double(activation)

    def expectation(function: Callable) -> Pair:
        return lambda q, covariance: _pair_expectation(function, q, covariance)

    return expectation(value), expectation(slope)


def _pair_expectation(function: Callable, q: float, covariance: float) -> float:
    """E g(u)g(v), given what they share: u = √(q − c) y + √c z with its own y, v likewise."""
    own, shared = np.sqrt(max(q - covariance, 0.0)), np.sqrt(covariance)
    z, density = _standard_normal()
    conditional = function(own * z[None, :] + shared * z[:, None]) @ density
    return float(np.square(conditional) @ density)


@functools.cache  # an eigenvalue problem of size 400, which importing should not wait for
def _standard_normal() -> tuple[np.ndarray, np.ndarray]:
    """Nodes z and the weights with which a sum over them is an expectation, both (400,)."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    # Beyond 12 deviations the density is below 1e-31, where even the square of a growing activation
    # does not count. Gauss–Legendre, because it also resolves the kink of an activation that is not
    # smooth.
    z = 12.0 * nodes
    return z, 12.0 * weights * np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)


def _relu_value(q: float, covariance: float) -> float:
    angle = np.arccos(min(covariance / q, 1.0))
    return float(q * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2.0 * np.pi))


def _relu_slope(q: float, covariance: float) -> float:
    return float((np.pi - np.arccos(min(covariance / q, 1.0))) / (2.0 * np.pi))
