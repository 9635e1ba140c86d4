"""What an observable sees of a trajectory, and what it is."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Array

from sharpflow.models import Params, Problem
from sharpflow.models.arguments import ArgumentError, shown
from sharpflow.models.representation import Summary, summarized, words
from sharpflow.simulator.quantity import Quantity
from sharpflow.simulator.rules import EdgeDynamics


@summarized
class Moment(NamedTuple):
    """A trajectory just before update t, as an observable sees it.

    Attributes:
      problem: what is trained.
      params: w_t.
      loss: L(w_t), shape ().
      gradient: ∇L(w_t), as ``params``.
      rule: what the optimizer tells of itself.
      effective_learning_rate: η̃_t, shape (), or None where nobody tells.
      following: w_{t+1}.
      previous: w_{t−1}, and w_0 at t = 0; w_t itself where nothing asks for it.
      active: whether this record is kept, shape (). Side by side with others, a lane that rests
        is observed with them, and an iteration need not go on for it.
    """

    problem: Problem
    params: Params
    loss: Array
    gradient: Params
    rule: EdgeDynamics
    effective_learning_rate: Array | None
    following: Params
    previous: Params
    active: Array | bool = True


@summarized
@dataclasses.dataclass(frozen=True)
class Observable:
    """A named recorder.

    Attributes:
      name: of the column, or of the group of columns.
      compute: moment -> array, or a mapping of column names to arrays. With a memory:
        (moment, memory) -> (that, memory for the next record).
      needs_previous: whether it looks at w_{t−1}, which is otherwise not kept.
      needs_rule: whether it needs η̃ and is left out where nobody tells it.
      memory: params -> what it remembers from record to record, a pytree of arrays.
      assumes_invariance: whether its columns mean something else than they say where the loss is
        not scale-invariant and not marked so.
      quantities: what its columns hold, a ``Quantity`` for each, which has the column's name.
        Datasets, figures and reports take label, definition and unit from it. A column without
        one has its name for a label and an unknown unit.

    Raises:
      ValueError: a name that is no text, something to compute that is no function, or quantities
        that are none.
    """

    name: str
    compute: Callable[..., Any]
    needs_previous: bool = False
    needs_rule: bool = False
    memory: Callable[[Params], Any] | None = None
    quantities: Sequence[Quantity] = ()
    assumes_invariance: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ValueError(f"name must be a text, got {shown(self.name)}")
        if not callable(self.compute):
            raise ValueError(f"compute must be a function, got {shown(self.compute)}")
        several = isinstance(self.quantities, (tuple, list))
        if not several or not all(isinstance(each, Quantity) for each in self.quantities):
            allowed = "a tuple of sharpflow.simulator.Quantity"
            raise ArgumentError("quantities", allowed, shown(self.quantities))
        names = [each.name for each in self.quantities]
        if len(set(names)) < len(names):
            raise ArgumentError("quantities", "one for each column", f"the names {names}")
        # compiled programs are found again by their observables: these need a hash
        object.__setattr__(self, "quantities", tuple(self.quantities))

    def _summary(self) -> Summary:
        needs = {
            "the params before": self.needs_previous,
            "a rule that tells η̃": self.needs_rule,
        }
        needed = ", ".join(name for name, needed in needs.items() if needed)
        remembered = "nothing" if self.memory is None else "something from record to record"
        columns = [(each.name, f"{each.label} [{each.unit}]") for each in self.quantities]
        return Summary(
            f"Observable {self.name!r}",
            [
                *(columns or [("columns", "not described")]),
                ("computed by", words(self.compute).lstrip("_")),
                ("remembers", remembered),
                ("needs", needed or "nothing else"),
            ],
        )

    def observe(self, moment: Moment, memory: Any) -> tuple[Mapping[str, Array], Any]:
        """The columns of one record, and the memory after it.

        Args:
          moment: what there is to see.
          memory: what was remembered at the record before; None without a memory.

        Returns:
          Arrays by the names of their columns, and the memory.
        """
        if self.memory is None:
            result = self.compute(moment)
        else:
            result, memory = self.compute(moment, memory)
        return result if isinstance(result, Mapping) else {self.name: result}, memory
