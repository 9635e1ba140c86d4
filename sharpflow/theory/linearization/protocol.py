"""What a linearization is, however it handles the Jacobian."""

from collections.abc import Callable
from typing import Literal, Protocol

from jax.tree_util import Partial
from jaxtyping import Array, Float

Residual = Callable[[Float[Array, " d"]], Float[Array, " m"]]
Method = Literal["auto", "dense", "gram", "iterative"]
METHODS: tuple[Method, ...] = ("auto", "dense", "gram", "iterative")


class Linearization(Protocol):
    """What the retraction, the projection and the flow ask of a point.

    Attributes:
      theta: the point, shape (d,).
      residual: r there, shape (m,).
      function: r, as a ``jax.tree_util.Partial``.
    """

    theta: Float[Array, " d"]
    residual: Float[Array, " m"]
    function: Partial

    def solve(self, residual: Float[Array, " m"]) -> Float[Array, " d"]:
        """J⁺ r, the least-squares solution of least norm.

        Args:
          residual: r, shape (m,).

        Returns:
          Shape (d,).
        """
        ...

    def project(
        self, vectors: Float[Array, "... d"], *, on_sphere: bool = True
    ) -> Float[Array, "... d"]:
        """P_Γ applied to vectors: I − J⁺J, and on the sphere without the radial part.

        Args:
          vectors: shape (..., d).
          on_sphere: whether Γ is taken within the sphere.

        Returns:
          Shape (..., d); NaN where an iterative solution does not converge.
        """
        ...

    def projected_gram(
        self, vectors: Float[Array, "p d"], *, on_sphere: bool = True
    ) -> Float[Array, "p p"]:
        """⟨P_Γ x_a, P_Γ x_b⟩ of all pairs of vectors, cheaper than the projections themselves.

        Args:
          vectors: x_a, shape (p, d).
          on_sphere: whether Γ is taken within the sphere.

        Returns:
          Shape (p, p); NaN where an iterative solution does not converge.
        """
        ...

    def top_eigenpairs(
        self, k: int, start: Float[Array, "q d"] | None = None
    ) -> tuple[Float[Array, " k"], Float[Array, "k d"]]:
        """The k largest eigenvalues of JᵀJ, descending, and unit eigenvectors in rows.

        On Γ they are those of the Hessian. Beyond the rank of J the vectors are zero.

        Args:
          k: at most the number of residuals and of parameters.
          start: eigenvectors at a nearby point, shape (q, d), where there are any.

        Returns:
          Eigenvalues, shape (k,), NaN where an iteration does not converge, and eigenvectors,
          shape (k, d).
        """
        ...

    def nearby(self, theta: Float[Array, " d"]) -> "Linearization":
        """One for a few uses close by, cheaper where that is possible.

        Args:
          theta: a point near by, shape (d,).

        Returns:
          A linearization, perhaps of another kind.
        """
        ...
