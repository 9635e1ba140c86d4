"""What is said of an integration that could not go on: where it stands, why, and what helps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sharpflow.theory.integration import Progress
from sharpflow.theory.status import Status

# Of what is left. A flow takes some twenty steps for a unit of time, and a hundred where
# eigenvalues cross; a step a thousand times shorter than the way to go is short for a reason.
_SHORT = 1e-3
# Of all attempts. Error control by itself rejects one in ten.
_MANY_REJECTED = 0.3
# Eigenvalues at the edge. Their gradients are k(k + 1)/2 vectors: ten times as many as of one.
_MANY_AT_EDGE = 4

NOT_SMOOTH = (
    "the loss may be stiff or not smooth there, as that of a network with relu is, whose "
    "derivatives jump at kinks: a smooth activation such as softplus has none"
)


@dataclass(frozen=True)
class Standing:
    """Where an integration stands.

    Attributes:
      tau, last_tau: where it is, and the last output time.
      step: the next one, in τ.
      num_steps, num_rejected: so far.
      num_at_edge: eigenvalues that the last step held at the edge.
    """

    tau: float
    last_tau: float
    step: float
    num_steps: int
    num_rejected: int
    num_at_edge: int

    @classmethod
    def of(
        cls,
        progress: Progress,
        *,
        last_tau: float,
        num_at_edge: int,
        tau_at: Callable[[float], float] = float,
    ) -> "Standing":
        """Where an integration stands, in τ.

        Args:
          progress: of the integration.
          last_tau, num_at_edge: as of the class.
          tau_at: from the time of the integration to τ.
        """
        at = float(progress.time)
        return cls(
            tau=tau_at(at),
            last_tau=last_tau,
            step=tau_at(at + float(progress.step)) - tau_at(at),
            num_steps=int(progress.num_steps),
            num_rejected=int(progress.num_rejected),
            num_at_edge=num_at_edge,
        )

    def message(
        self,
        flow: str,
        last_reached: float,
        status: Status,
        remedies: Mapping[Status, str],
        max_steps: int,
        max_seconds: float | None,
    ) -> str:
        """What the error of a flow says that failed or met a limit.

        Args:
          flow: what it is called.
          last_reached: the last output time that it reached.
          status: how it ended.
          remedies: for each failure.
          max_steps, max_seconds: the limits.
        """
        limited = status in LIMITS
        remedy = self.remedy(status, max_steps, max_seconds) if limited else remedies[status]
        return (
            f"{flow} stopped after tau = {last_reached:g}: {status.message}; {self.in_words()}; "
            f"{remedy}. throw=False returns what was reached"
        )

    def in_words(self) -> str:
        """One sentence, without its point."""
        return (
            f"it stands at tau = {self.tau:.6g} of {self.last_tau:g} after {self.num_steps} steps "
            f"and {self.num_rejected} rejected ones, with {eigenvalues_at_edge(self.num_at_edge)}, "
            f"and its next step is {self.step:.1e}"
        )

    def remedy(self, status: Status, max_steps: int, max_seconds: float | None) -> str:
        """Why an integration that met a limit was slow, as far as that shows, and what helps.

        Args:
          status: ``MAX_STEPS``, ``MAX_SECONDS`` or ``STALLED``.
          max_steps, max_seconds: the limits.
        """
        reasons = []
        if status == Status.MAX_STEPS:
            reasons.append(f"max_steps = {max_steps} must grow, or rtol")
        if status == Status.MAX_SECONDS:
            # predict gives the flow what its search for the arrival has left
            reasons.append(f"max_seconds, of which the flow had {max_seconds:.3g}, must grow")
        short = self.step < _SHORT * (self.last_tau - self.tau)
        failing = self.num_rejected > _MANY_REJECTED * (self.num_steps + self.num_rejected)
        if status == Status.STALLED or short or failing:
            reasons.append(NOT_SMOOTH)
        if self.num_at_edge >= _MANY_AT_EDGE:
            reasons.append("every eigenvalue at the edge makes a step longer to compute")
        return "; ".join(reasons)


def eigenvalues_at_edge(count: int) -> str:
    """Their number in words."""
    return f"{count} eigenvalue{'' if count == 1 else 's'} at the edge"


LIMITS = (Status.MAX_STEPS, Status.MAX_SECONDS, Status.STALLED)
