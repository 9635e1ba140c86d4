"""The residual and its Jacobian at a point: formed, through its Gram matrix, or by products."""

from collections.abc import Callable
from typing import Any, Literal, Protocol

import chex
import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float

from sharpflow.theory.lanczos import lanczos, pseudo_random_block
from sharpflow.theory.least_squares import least_norm_solution

Residual = Callable[[Float[Array, " d"]], Float[Array, " m"]]
Method = Literal["auto", "dense", "gram", "iterative"]
METHODS: tuple[Method, ...] = ("auto", "dense", "gram", "iterative")

_DENSE_ENTRIES = 2**25  # of the Jacobian: 256 MiB in float64
_DENSE_SIZE = 2000  # of its smaller side
_GRAM_SIZE = 8000  # residuals: the Gram matrix and its eigenvectors take 2 m²
_BATCH_ENTRIES = 2**23  # of the Jacobian's rows that are held at once
_MAX_BATCH = 64


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
        """J⁺ r, the least-squares solution of least norm."""
        ...

    def project(
        self, vectors: Float[Array, "... d"], *, on_sphere: bool = True
    ) -> Float[Array, "... d"]:
        """P_Γ applied to vectors: I − J⁺J, and on the sphere without the radial part."""
        ...

    def top_eigenpairs(
        self, k: int, start: Float[Array, "q d"] | None = None
    ) -> tuple[Float[Array, " k"], Float[Array, "k d"]]:
        """The k largest eigenvalues of JᵀJ, descending, and unit eigenvectors in rows.

        On Γ they are those of the Hessian. Beyond the rank of J the vectors are zero.
        ``start`` holds the eigenvectors of a nearby point.
        """
        ...

    def at(self, theta: Float[Array, " d"]) -> "Linearization":
        """The same at another point."""
        ...

    def nearby(self, theta: Float[Array, " d"]) -> "Linearization":
        """One for a few uses close by, cheaper where that is possible."""
        ...


def linearize(
    residual: Residual, theta: Float[Array, " d"], method: Method = "auto"
) -> Linearization:
    """Linearize a residual on flat parameters.

    Args:
      residual: r.
      theta: where, shape (d,).
      method: ``"dense"`` forms the Jacobian; ``"gram"`` forms JJᵀ alone, block by
        block; ``"iterative"`` needs products with J and Jᵀ only; ``"auto"`` takes the
        first of them that fits.

    Raises:
      ValueError: an unknown method.

    Source: docs/theory.md, section 8.
    """
    shape = jax.eval_shape(residual, theta).shape
    kind = _KINDS[resolve_method(method, shape[0], theta.shape[0])]
    return kind.of(residual, theta)


def resolve_method(method: Method, m: int, d: int) -> Method:
    """What ``"auto"`` means for m residuals of d parameters.

    Raises:
      ValueError: an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    if method != "auto":
        return method
    if m * d <= _DENSE_ENTRIES and min(m, d) <= _DENSE_SIZE:
        return "dense"
    return "gram" if m <= min(d, _GRAM_SIZE) else "iterative"


@chex.dataclass(frozen=True)
class DenseLinearization:
    """With the Jacobian itself, and the eigenvectors of its smaller Gram matrix.

    Attributes:
      theta, residual: the point and r there.
      function: r, as a ``jax.tree_util.Partial``.
      jacobian: J, shape (m, d).
      eigenvalues: of JJᵀ or JᵀJ, whichever is smaller, descending, shape (q,), q = min(m, d).
      basis: its orthonormal eigenvectors in the columns, shape (q, q).
    """

    theta: Float[Array, " d"]
    residual: Float[Array, " m"]
    function: Partial
    jacobian: Float[Array, "m d"]
    eigenvalues: Float[Array, " q"]
    basis: Float[Array, "q q"]

    @classmethod
    def of(cls, function: Residual, theta: Float[Array, " d"]) -> "DenseLinearization":
        value, pullback = jax.vjp(function, theta)
        m, d = value.shape[0], theta.shape[0]
        if m <= d:
            (jacobian,) = jax.vmap(pullback)(jnp.eye(m, dtype=theta.dtype))
            gram = jacobian @ jacobian.T
        else:
            jacobian = jax.jacfwd(function)(theta)
            gram = jacobian.T @ jacobian
        eigenvalues, basis = jnp.linalg.eigh(gram)
        return cls(
            theta=theta,
            residual=value,
            function=Partial(function),
            jacobian=jacobian,
            eigenvalues=eigenvalues[::-1],
            basis=basis[:, ::-1],
        )

    def at(self, theta: Float[Array, " d"]) -> "DenseLinearization":
        return self.of(self.function.func, theta)

    nearby = at

    def kept(self) -> Bool[Array, " q"]:
        """Which eigenvalues count as nonzero."""
        return _kept(self.eigenvalues)

    def top_eigenpairs(
        self, k: int, start: Float[Array, "q d"] | None = None
    ) -> tuple[Float[Array, " k"], Float[Array, "k d"]]:
        m, d = self.jacobian.shape
        values, basis = self.eigenvalues[:k], self.basis[:, :k].T
        if m > d:
            return values, basis
        return values, _unit_rows(basis @ self.jacobian, self.kept()[:k])

    def solve(self, residual: Float[Array, " m"]) -> Float[Array, " d"]:
        inverse = _inverse(self.eigenvalues, self.kept())
        m, d = self.jacobian.shape
        if m > d:
            return self.basis @ (inverse * (self.basis.T @ (self.jacobian.T @ residual)))
        return self.jacobian.T @ (self.basis @ (inverse * (self.basis.T @ residual)))

    def project(
        self, vectors: Float[Array, "... d"], *, on_sphere: bool = True
    ) -> Float[Array, "... d"]:
        vectors = _without_radial(vectors, self.theta) if on_sphere else vectors
        m, d = self.jacobian.shape
        if m > d:
            kept = jnp.where(self.kept()[None], self.basis, 0.0)
            return vectors - (vectors @ kept) @ kept.T
        inverse = _inverse(self.eigenvalues, self.kept())
        for _ in range(2):  # the second pass removes what rounding left of the first
            coordinates = (vectors @ self.jacobian.T) @ (self.basis * inverse[None])
            vectors = vectors - (coordinates @ self.basis.T) @ self.jacobian
        return vectors


@chex.dataclass(frozen=True)
class GramLinearization:
    """With JJᵀ decomposed, and products with J and Jᵀ: memory 2 m² instead of m d.

    Attributes:
      theta, residual: the point and r there.
      function: r, as a ``jax.tree_util.Partial``.
      eigenvalues: of JJᵀ, descending, shape (m,).
      basis: its orthonormal eigenvectors in the columns, shape (m, m).
    """

    theta: Float[Array, " d"]
    residual: Float[Array, " m"]
    function: Partial
    eigenvalues: Float[Array, " m"]
    basis: Float[Array, "m m"]

    @classmethod
    def of(cls, function: Residual, theta: Float[Array, " d"]) -> "GramLinearization":
        value, push = jax.linearize(function, theta)
        pull = jax.linear_transpose(push, theta)
        m = value.shape[0]

        def column(index: Array) -> Array:
            (row,) = pull(jnp.zeros((m,), theta.dtype).at[index].set(1.0))
            return push(row)

        gram = jax.lax.map(column, jnp.arange(m), batch_size=_batch(theta.shape[0], m))
        eigenvalues, basis = jnp.linalg.eigh(0.5 * (gram + gram.T))
        return cls(
            theta=theta,
            residual=value,
            function=Partial(function),
            eigenvalues=eigenvalues[::-1],
            basis=basis[:, ::-1],
        )

    def at(self, theta: Float[Array, " d"]) -> "GramLinearization":
        return self.of(self.function.func, theta)

    def nearby(self, theta: Float[Array, " d"]) -> "IterativeLinearization":
        """By products, preconditioned with the Gram matrix here."""
        return IterativeLinearization.of(
            self.function.func, theta, preconditioner=(self.basis, self._inverse())
        )

    def _inverse(self) -> Float[Array, " m"]:
        return _inverse(self.eigenvalues, _kept(self.eigenvalues))

    def top_eigenpairs(
        self, k: int, start: Float[Array, "q d"] | None = None
    ) -> tuple[Float[Array, " k"], Float[Array, "k d"]]:
        _, pullback = jax.vjp(self.function, self.theta)
        (vectors,) = jax.vmap(pullback)(self.basis[:, :k].T)
        return self.eigenvalues[:k], _unit_rows(vectors, self._inverse()[:k] > 0)

    def solve(self, residual: Float[Array, " m"]) -> Float[Array, " d"]:
        _, pullback = jax.vjp(self.function, self.theta)
        return pullback(self.basis @ (self._inverse() * (self.basis.T @ residual)))[0]

    def project(
        self, vectors: Float[Array, "... d"], *, on_sphere: bool = True
    ) -> Float[Array, "... d"]:
        def one(vector: Array) -> Array:
            for _ in range(2):  # the second pass removes what rounding left of the first
                stretched = jax.jvp(self.function, (self.theta,), (vector,))[1]
                vector = vector - self.solve(stretched)
            return vector

        vectors = _without_radial(vectors, self.theta) if on_sphere else vectors
        return _map_rows(one, vectors)


@chex.dataclass(frozen=True)
class IterativeLinearization:
    """By products with J and Jᵀ alone: memory of a few vectors.

    Without a preconditioner J⁺ comes from ``least_norm_solution``, into which the
    directions that batch norm makes null never enter. With one, from the decomposition
    of JJᵀ at a nearby point, JJᵀ u = r is solved among the eigenvectors kept there: that
    deflates the null directions.

    Attributes:
      theta, residual: the point and r there.
      function: r, as a ``jax.tree_util.Partial``.
      preconditioner: eigenvectors of a nearby JJᵀ in columns, shape (m, m), and the
        inverses of its eigenvalues, zero where they are cut, shape (m,); or None.
    """

    theta: Float[Array, " d"]
    residual: Float[Array, " m"]
    function: Partial
    preconditioner: tuple[Float[Array, "m m"], Float[Array, " m"]] | None = None

    @classmethod
    def of(
        cls,
        function: Residual,
        theta: Float[Array, " d"],
        preconditioner: tuple[Array, Array] | None = None,
    ) -> "IterativeLinearization":
        return cls(
            theta=theta,
            residual=function(theta),
            function=Partial(function),
            preconditioner=preconditioner,
        )

    def at(self, theta: Float[Array, " d"]) -> "IterativeLinearization":
        return self.of(self.function.func, theta, self.preconditioner)

    nearby = at

    def solve(self, residual: Float[Array, " m"]) -> Float[Array, " d"]:
        return self._solve(residual, _cg_tolerance(residual.dtype))

    def _solve(self, residual: Float[Array, " m"], tolerance: float) -> Float[Array, " d"]:
        _, push = jax.linearize(self.function, self.theta)
        pull = jax.linear_transpose(push, self.theta)
        most = 10 * min(residual.shape[0], self.theta.shape[0]) + 100
        if self.preconditioner is None:
            return least_norm_solution(
                push, lambda u: pull(u)[0], residual, tolerance=tolerance, max_steps=most
            )
        basis, inverse = self.preconditioner

        def kept(vector: Array) -> Array:
            return basis @ jnp.where(inverse > 0, basis.T @ vector, 0.0)

        solution, _ = cg(
            lambda u: kept(push(pull(u)[0])),
            kept(residual),
            M=lambda u: basis @ (inverse * (basis.T @ u)),
            tol=tolerance,
            maxiter=most,
        )
        return pull(solution)[0]

    def project(
        self, vectors: Float[Array, "... d"], *, on_sphere: bool = True
    ) -> Float[Array, "... d"]:
        """As of every linearization; NaN where conjugate gradients do not converge."""
        tolerance = _cg_tolerance(vectors.dtype)

        def remainder(vector: Array, tolerance: float) -> Array:
            stretched = jax.jvp(self.function, (self.theta,), (vector,))[1]
            return self._solve(stretched, tolerance)

        def one(vector: Array) -> Array:
            projected = vector - remainder(vector, tolerance)
            # the second pass tells and removes what the first left, down to rounding
            left = remainder(projected, tolerance**0.4)
            small = jnp.linalg.norm(left) <= tolerance**0.4 * jnp.linalg.norm(vector)
            return jnp.where(small, projected - left, jnp.nan)

        vectors = _without_radial(vectors, self.theta) if on_sphere else vectors
        return _map_rows(one, vectors)

    def top_eigenpairs(
        self, k: int, start: Float[Array, "q d"] | None = None
    ) -> tuple[Float[Array, " k"], Float[Array, "k d"]]:
        """As of every linearization; NaN where Lanczos' method does not converge."""
        _, push = jax.linearize(self.function, self.theta)
        pull = jax.linear_transpose(push, self.theta)
        if start is None:
            block = pseudo_random_block(k, self.residual.shape[0], self.theta.dtype)
        else:
            block = jax.vmap(push)(start)
        found = lanczos(
            lambda u: push(pull(u)[0]), block, k, tolerance=_eigen_tolerance(self.theta.dtype)
        )
        values = jnp.where(found.converged, found.values, jnp.nan)
        (vectors,) = jax.vmap(pull)(found.vectors)
        return values, _unit_rows(vectors, values > 0)


_KINDS: dict[str, Any] = {
    "dense": DenseLinearization,
    "gram": GramLinearization,
    "iterative": IterativeLinearization,
}


def _kept(eigenvalues: Array) -> Bool[Array, " q"]:
    """Which eigenvalues of JJᵀ count as nonzero: a relative cut at its rounding.

    Batch norm makes the Jacobian rank-deficient, so a plain inverse is no option. The
    errors of a matrix's entries add up like random numbers: its norm errs by √q eps.
    """
    cut = 2.0 * eigenvalues.shape[0] ** 0.5 * jnp.finfo(eigenvalues.dtype).eps
    return eigenvalues > cut * eigenvalues[0]


def _inverse(eigenvalues: Array, kept: Array) -> Array:
    return jnp.where(kept, 1.0 / jnp.where(kept, eigenvalues, 1.0), 0.0)


def _unit_rows(vectors: Array, kept: Array) -> Array:
    norms = jnp.linalg.norm(vectors, axis=1, keepdims=True)
    kept = kept[:, None]
    return jnp.where(kept, vectors / jnp.where(kept, norms, 1.0), 0.0)


def _without_radial(vectors: Array, theta: Array) -> Array:
    unit = theta / jnp.linalg.norm(theta)
    return vectors - jnp.tensordot(vectors @ unit, unit, axes=0)


def _map_rows(one: Callable[[Array], Array], vectors: Array) -> Array:
    """``one`` applied to every vector of shape (d,) in an array of shape (..., d)."""
    rows = vectors.reshape(-1, vectors.shape[-1])
    batch = _batch(rows.shape[1], rows.shape[0])
    return jax.lax.map(one, rows, batch_size=batch).reshape(vectors.shape)


def _batch(d: int, count: int) -> int:
    """How many vectors of length d are pushed through the network at once."""
    return max(1, min(_MAX_BATCH, _BATCH_ENTRIES // d, count))


def _cg_tolerance(dtype: jnp.dtype) -> float:
    return 1e-10 if dtype == jnp.float64 else 1e-5


def _eigen_tolerance(dtype: jnp.dtype) -> float:
    return 1e-10 if dtype == jnp.float64 else 1e-5
