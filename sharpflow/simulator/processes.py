"""Several processes that share the points of a grid."""

import dataclasses
import uuid
from typing import TypeVar

import jax
import numpy as np

from sharpflow.models.arguments import COUNT, TEXT, checked, count, instance, optional
from sharpflow.models.representation import summarized

T = TypeVar("T")


@summarized
@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes of one launch.

    Attributes:
      index: of this one.
      count: of all.
      token: names the launch, the same in all.
    """

    index: int = 0
    count: int = 1
    token: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)

    def share(self, items: list[T]) -> list[T]:
        """The items that this process takes.

        Args:
          items: the same list in every process.

        Returns:
          Every ``count``-th of them, from the ``index``-th on.
        """
        # In turn and not in blocks: the longest come first, and so every process gets some of them.
        return items[self.index :: self.count]


PROCESSES = optional(instance(Processes, "what join_processes returned"))


@checked(coordinator=optional(TEXT), num_processes=optional(COUNT), process_id=optional(count(0)))
def join_processes(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Processes:
    """Meet the other processes of a launch, agree on its name, and part again.

    The processes meet by ``jax.distributed``. They share no computation afterwards, each
    taking points of its own, so that service is ended at once: from then on the loss of one
    process, the first included, does not stop the others.

    Args:
      coordinator: ``"host:port"`` of process 0. Without it, and the numbers, the cluster
        says them: SLURM, Open MPI, Kubernetes or a TPU pod.
      num_processes, process_id: how many there are, and which this is.

    Returns:
      The processes, with this one's index, for ``simulate_grid``.

    Raises:
      ValueError: some but not all of the three.
      RuntimeError: the others did not come, or jax computed something before.
    """
    given = (coordinator, num_processes, process_id)
    if any(value is None for value in given) and any(value is not None for value in given):
        raise ValueError(
            "coordinator, num_processes and process_id belong together; got "
            f"{coordinator!r}, {num_processes!r}, {process_id!r}"
        )
    if process_id is not None and num_processes is not None and process_id >= num_processes:
        raise ValueError(
            f"process_id must be below num_processes = {num_processes}, got {process_id}"
        )
    jax.distributed.initialize(coordinator, num_processes, process_id)
    try:
        index, count = jax.process_index(), jax.process_count()
        from jax.experimental.multihost_utils import broadcast_one_to_all

        # Drawn in every process, and that of the first counts. Numbers of the cluster would not do:
        # a job that is started again may have the same ones.
        token = np.frombuffer(uuid.uuid4().bytes, np.uint8)
        agreed = np.asarray(broadcast_one_to_all(token), np.uint8)
    finally:
        jax.distributed.shutdown()
    return Processes(index, count, bytes(agreed).hex())
