"""The top of a symmetric operator's spectrum, by a block-started Lanczos method with restarts."""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sharpflow.theory.ritz import RitzPairs

Matvec = Callable[[Float[Array, " d"]], Float[Array, " d"]]
Stop = Literal["residual", "estimate"]

_MAX_CYCLES = 50
_VECTORS_BETWEEN = 2  # from one Rayleigh–Ritz step to the next: it costs about as much as one


def lanczos(
    matvec: Matvec,
    start: Float[Array, "q d"],
    k: int,
    *,
    tolerance: float | Array,
    stop: Stop = "residual",
    basis_size: int | None = None,
) -> RitzPairs:
    """The k largest eigenvalues of a symmetric operator.

    The space grows from the start block by the largest residual of a pair that has not
    converged, and by the image of that. From a single vector that is Lanczos' method; from
    the eigenvectors of a nearby operator it begins where those left off; and an eigenvalue
    is found as often as it occurs, up to q times. Every new vector is orthogonalised twice
    against the whole space. A full space is replaced by its best Ritz vectors, and one that ends
    early, as on Γ, where the Hessian has low rank, goes on with a fresh vector.

    Args:
      matvec: the operator, (d,) -> (d,).
      start: first vectors, shape (q, d), q ≤ ``basis_size``; they need not be orthogonal.
      k: how many, at most d.
      tolerance: relative to the largest |θ|; what it bounds, ``stop`` says.
      stop: ``"residual"`` stops on the residuals, ``"estimate"`` on the errors of the
        eigenvalues: Σ_{j≤i} r_j²/(θ_i − θ_{i+1}) where that is below r_i.
      basis_size: vectors kept, more than k + 1 and q, at most d.

    Returns:
      The Ritz pairs; two arrays of shape (basis_size, d) were held meanwhile.

    Source: Davidson 1975 without a preconditioner, which is Lanczos 1950 where q = 1;
    Wu and Simon 2000 (thick restart); Parlett 1998, section 11.7 (residual²/gap).
    """
    method = LanczosMethod.of(start.shape, k, tolerance, stop, basis_size)

    def extend(space: Space) -> Space:
        """One more vector and its image, with which the next one would go on."""
        remainder, remains = method.remainder(space)
        remainder = jax.lax.cond(remains, lambda: remainder, lambda: method.substitute(space))
        vector = method.next_vector(space, remainder)
        return method.grown(space, start, vector, matvec(vector))

    def examine(space: Space) -> Space:
        """A few more vectors, then the Ritz pairs of the larger space."""
        full = space.num_vectors == method.size
        space = jax.lax.cond(full, method.compressed, lambda s: s, space)
        return method.examined(jax.lax.while_loop(method.has_room, extend, space))

    space = jax.lax.while_loop(method.is_unfinished, examine, method.first_space(start))
    return method.pairs(space)


class Space(NamedTuple):
    """A space of vectors with their images under the operator, and what is known of the pairs.

    Attributes:
      basis, images: orthonormal vectors v and A v in the first rows, shape (size, d).
      projected: ⟨v_i, A v_j⟩, shape (size, size).
      num_vectors: how many there are.
      candidate: what the next vector is made of, shape (d,).
      values, coefficients: Ritz values, descending, and their vectors in terms of the basis in
        columns, as of the last Rayleigh–Ritz step.
      residuals, errors: of the k best pairs, shape (k,).
      size: largest modulus of a Ritz value.
      asymmetry: largest difference of ⟨v_i, A v_j⟩ and ⟨A v_i, v_j⟩.
      products: A v made.
      converged: which of the pairs, shape (k,).
      since_ritz: vectors since the last Rayleigh–Ritz step.
      broken: whether an image was not finite.
      done: whether there is nothing more to do.
    """

    basis: Float[Array, "size d"]
    images: Float[Array, "size d"]
    projected: Float[Array, "size size"]
    num_vectors: Int[Array, ""]
    candidate: Float[Array, " d"]
    values: Float[Array, " size"]
    coefficients: Float[Array, "size size"]
    residuals: Float[Array, " k"]
    errors: Float[Array, " k"]
    size: Float[Array, ""]
    asymmetry: Float[Array, ""]
    products: Int[Array, ""]
    converged: Bool[Array, " k"]
    since_ritz: Int[Array, ""]
    broken: Bool[Array, ""]
    done: Bool[Array, ""]


@dataclasses.dataclass(frozen=True)
class LanczosMethod:
    """The parts of an iteration, for one operator.

    Attributes:
      k, stop, tolerance: as of ``lanczos``.
      num_start, dimension: q and d.
      size: most vectors of a space.
      kept: Ritz vectors that replace a full one.
    """

    k: int
    stop: Stop
    tolerance: float | Array
    num_start: int
    dimension: int
    size: int
    kept: int

    @classmethod
    def of(
        cls,
        start_shape: tuple[int, ...],
        k: int,
        tolerance: float | Array,
        stop: Stop,
        basis_size: int | None,
    ) -> "LanczosMethod":
        """The method for start blocks of shape (q, d); arguments as of ``lanczos``."""
        num_start, dimension = start_shape
        if basis_size is None:
            basis_size = max(2 * k + 16, num_start + k + 8, 24)
        size = min(dimension, basis_size)
        kept = min(max(k + 4, num_start), size - 1)
        return cls(k, stop, tolerance, num_start, dimension, size, kept)

    def first_space(self, start: Float[Array, "q d"]) -> Space:
        """The empty space before the first vector."""
        dtype, k, size, nothing = start.dtype, self.k, self.size, jnp.zeros((), jnp.int32)
        return Space(
            basis=jnp.zeros((size, self.dimension), dtype),
            images=jnp.zeros((size, self.dimension), dtype),
            projected=jnp.zeros((size, size), dtype),
            num_vectors=nothing,
            candidate=start[0],
            values=jnp.zeros((size,), dtype),
            coefficients=jnp.eye(size, dtype=dtype),
            residuals=jnp.full((k,), jnp.inf, dtype),
            errors=jnp.full((k,), jnp.inf, dtype),
            size=jnp.zeros((), dtype),
            asymmetry=jnp.zeros((), dtype),
            products=nothing,
            converged=jnp.zeros((k,), bool),
            since_ritz=nothing,
            broken=jnp.zeros((), bool),
            done=jnp.zeros((), bool),
        )

    def is_unfinished(self, space: Space) -> Bool[Array, ""]:
        """Whether there is something to do, and products are left for it."""
        most = self.size + _MAX_CYCLES * max(self.size - self.kept, 1)
        return ~space.done & (space.products < most)

    def has_room(self, space: Space) -> Bool[Array, ""]:
        """Whether another vector comes before the next Rayleigh–Ritz step."""
        room = (space.num_vectors < self.size) & ~space.broken
        soon = (space.since_ritz < _VECTORS_BETWEEN) | (space.products < self.num_start)
        return room & soon

    def remainder(self, space: Space) -> tuple[Float[Array, " d"], Bool[Array, ""]]:
        """What the candidate adds to the space, and whether that is more than rounding."""
        rounding = self.dimension**0.5 * jnp.finfo(space.candidate.dtype).eps
        length = jnp.linalg.norm(space.candidate)
        left = _orthogonal(space.candidate / jnp.where(length > 0, length, 1.0), space.basis)
        return left, jnp.linalg.norm(left) > rounding

    def substitute(self, space: Space) -> Float[Array, " d"]:
        """What a fresh vector adds to the space, for a candidate that adds nothing."""
        dtype = space.candidate.dtype
        fresh = jax.random.normal(jax.random.key(1), (self.dimension,), dtype)
        return _orthogonal(jnp.roll(fresh, space.products), space.basis)

    def next_vector(self, space: Space, remainder: Float[Array, " d"]) -> Float[Array, " d"]:
        """The remainder, orthogonalised once more, since twice is enough, and of norm 1."""
        remainder = _orthogonal(remainder / jnp.linalg.norm(remainder), space.basis)
        return remainder / jnp.linalg.norm(remainder)

    def grown(
        self,
        space: Space,
        start: Float[Array, "q d"],
        vector: Float[Array, " d"],
        image: Float[Array, " d"],
        grows: Bool[Array, ""] | None = None,
    ) -> Space:
        """The space with one more vector and its image.

        Args:
          space: to be grown.
          start: the start block, whose vectors come before all others.
          vector, image: v and A v.
          grows: False leaves the space as it is, without a copy of it; None is True.
        """
        # a place out of range is not written to
        place = (
            space.num_vectors if grows is None else jnp.where(grows, space.num_vectors, self.size)
        )
        basis = space.basis.at[place].set(vector)
        images = space.images.at[place].set(image)
        row, column = images @ vector, basis @ image
        products = space.products + 1
        following = start[jnp.minimum(products, self.num_start - 1)]
        after = space._replace(
            basis=basis,
            images=images,
            projected=space.projected.at[place].set(row).at[:, place].set(column),
            num_vectors=space.num_vectors + 1,
            candidate=jnp.where(products < self.num_start, following, image),
            asymmetry=jnp.maximum(space.asymmetry, jnp.max(jnp.abs(row - column))),
            products=products,
            broken=~jnp.all(jnp.isfinite(image)),
            since_ritz=space.since_ritz + 1,
        )
        return after if grows is None else small_parts_where(grows, after, space)

    def compressed(self, space: Space) -> Space:
        """The best Ritz vectors in place of the whole space."""
        room = jnp.zeros((self.size - self.kept, self.dimension), space.basis.dtype)
        turn = space.coefficients[:, : self.kept].T
        rows = jnp.arange(self.size, dtype=jnp.int32)
        return space._replace(
            basis=jnp.concatenate([turn @ space.basis, room]),
            images=jnp.concatenate([turn @ space.images, room]),
            projected=jnp.diag(jnp.where(rows < self.kept, space.values, 0.0)),
            num_vectors=jnp.asarray(self.kept, jnp.int32),
        )

    def examined(self, space: Space) -> Space:
        """The same space with its Ritz pairs, and what the next vector is made of."""
        k, rows = self.k, jnp.arange(self.size, dtype=jnp.int32)
        active = rows < space.num_vectors
        values, coefficients = _ritz(space.projected, active)
        top = coefficients[:, : k + 1].T
        remainders = top @ space.images - values[: k + 1, None] * (top @ space.basis)
        norms = jnp.linalg.norm(remainders, axis=1)
        remainders, residuals = remainders[:k], norms[:k]
        largest = jnp.max(jnp.where(active, jnp.abs(values), 0.0))
        errors = _errors(values, norms, k, space.num_vectors)
        bounded = errors if self.stop == "estimate" else residuals
        converged = (bounded <= self.tolerance * largest) & (rows[:k] < space.num_vectors)
        return space._replace(
            candidate=remainders[jnp.argmax(jnp.where(converged, -1.0, bounded))],
            values=values,
            coefficients=coefficients,
            residuals=residuals,
            errors=errors,
            size=largest,
            converged=converged,
            since_ritz=jnp.zeros((), jnp.int32),
            done=jnp.all(converged) | (space.num_vectors == self.dimension) | space.broken,
        )

    def pairs(self, space: Space) -> RitzPairs:
        """What the space knows of the k largest eigenvalues."""
        best = space.coefficients[:, : self.k + 1].T @ space.basis
        return RitzPairs(
            values=space.values[: self.k],
            vectors=best[: self.k],
            next_start=best,
            residuals=space.residuals,
            errors=space.errors,
            size=space.size,
            asymmetry=space.asymmetry,
            num_products=space.products,
            converged=space.converged,
        )


def small_parts_where(flag: Bool[Array, ""], new: Space, old: Space) -> Space:
    """``new`` where the flag holds and else ``old``, whose two large arrays are those of ``new``.

    To choose between two large arrays is to copy one, in every step of every lane.
    """
    chosen = {
        name: jnp.where(flag, getattr(new, name), getattr(old, name))
        for name in Space._fields
        if name not in ("basis", "images")
    }
    return new._replace(**chosen)


def pseudo_random_block(rows: int, dimension: int, dtype: jnp.dtype) -> Float[Array, "q d"]:
    """Fixed vectors with no structure that an operator could be orthogonal to."""
    return jax.random.normal(jax.random.key(0), (rows, dimension), dtype)


def _orthogonal(vector: Array, basis: Array) -> Array:
    return vector - (basis @ vector) @ basis


def _ritz(projected: Array, active: Array) -> tuple[Array, Array]:
    """Ritz values, descending, and coefficients in columns; unused rows come last."""
    symmetric = 0.5 * (projected + projected.T)
    below = -(1.0 + 2.0 * jnp.linalg.norm(symmetric))
    values, coefficients = jnp.linalg.eigh(symmetric + jnp.diag(jnp.where(active, 0.0, below)))
    return values[::-1], coefficients[:, ::-1]


def _errors(values: Array, residuals: Array, k: int, count: Array) -> Array:
    """min(r_i, Σ_{j≤i} r_j²/(θ_i − θ_{i+1})): quadratic once the gap below is resolved."""
    gaps = values[:k] - jnp.append(values[1:], values[-1:])[:k]
    uncertainty = jnp.append(residuals[1:], residuals[-1:])[:k]
    resolved = (jnp.arange(1, k + 1, dtype=count.dtype) < count) & (gaps > uncertainty)
    quadratic = jnp.cumsum(jnp.square(residuals[:k])) / jnp.where(resolved, gaps, 1.0)
    return jnp.where(resolved, jnp.minimum(residuals[:k], quadratic), residuals[:k])
