"""The top of a symmetric operator's spectrum, by a block-started Lanczos method with restarts."""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sharpflow.theory.ritz import RitzPairs
from sharpflow.theory.scaling import power_of_two
from sharpflow.theory.witness import (
    TIGHT_UNTIL,
    allowed_probability,
    excluded_margin,
    miss_probability,
    prepared_start,
    random_vector,
)

Matvec = Callable[[Float[Array, " d"]], Float[Array, " d"]]
Stop = Literal["residual", "estimate"]

# Fillings of the space. Ten times as many would make a failure ten times as expensive.
_MAX_CYCLES = 50
# Of tolerances. At the edge the largest eigenvalues lie within a percent. With 1e-3 one record in a
# hundred of a tanh network ended between them, 7e-3 off, and two products were saved of 22.
_LOOSEST = 1e-4
# From one Rayleigh–Ritz step to the next, which costs about as much as a vector. With 20 a record
# that needs 20 products would make up to 40.
_VECTORS_BETWEEN = 2


def lanczos(
    matvec: Matvec,
    start: Float[Array, "q d"],
    k: int,
    *,
    tolerance: float | Array,
    stop: Stop = "residual",
    basis_size: int | None = None,
    seed: Int[Array, ""] | int = 0,
) -> RitzPairs:
    """The k largest eigenvalues of a symmetric operator.

    The space grows from the start block by the largest residual of a pair that has not
    converged, and by the image of that. From a single vector that is Lanczos' method; from
    the eigenvectors of a nearby operator it begins where those left off. Every new vector is
    orthogonalised twice against the whole space. A full space is replaced by its best Ritz
    vectors, and one that ends early, as on Γ, where the Hessian has low rank, goes on with a
    fresh vector.

    The start alone does not decide the result. A random vector goes with it, or follows once the
    pairs have converged, and the iteration ends when that vector excludes a larger eigenvalue
    (``theory/witness.py``). For k ≥ 2 another random vector follows after every change of the
    pairs, so that an eigenvalue is counted as often as it occurs.

    Args:
      matvec: the operator, (d,) -> (d,).
      start: first vectors, shape (q, d), q ≤ ``basis_size``; they need not be orthogonal, and a
        row of zeros stands for a random vector.
      k: how many, at most d.
      tolerance: relative to the largest |θ|; what it bounds, ``stop`` says. More than 1e-4 is
        taken for 1e-4.
      stop: ``"residual"`` stops on the residuals, ``"estimate"`` on the errors of the
        eigenvalues: Σ_{j≤i} r_j²/(θ_i − θ_{i+1}) where that is below r_i.
      basis_size: vectors kept, more than k + 1 and q, at most d.
      seed: of the random vectors.

    Returns:
      The Ritz pairs; two arrays of shape (basis_size, d) were held meanwhile.

    Source: Davidson 1975 without a preconditioner, which is Lanczos 1950 where q = 1;
    Wu and Simon 2000 (thick restart); Parlett 1998, section 11.7 (residual²/gap).
    """
    seed = jnp.asarray(seed, jnp.int32)
    start, loudness = prepared_start(start, k, seed)
    method = LanczosMethod.of(start.shape, k, tolerance, stop, basis_size)

    def extend(space: Space) -> Space:
        """One more vector and its image, with which the next one would go on."""
        remainder, remains = method.remainder(space)
        remainder = jax.lax.cond(remains, lambda: remainder, lambda: method.substitute(space, seed))
        space = method.heard(space, remainder, remains)
        vector = method.next_vector(space, remainder)
        return method.grown(space, start, vector, matvec(vector))

    def examine(space: Space) -> Space:
        """A few more vectors, then the Ritz pairs of the larger space."""
        full = space.num_vectors == method.size
        space = jax.lax.cond(full, method.compressed, lambda s: s, space)
        return method.examined(jax.lax.while_loop(method.has_room, extend, space))

    first = method.first_space(start, loudness)
    space = jax.lax.while_loop(method.is_unfinished, examine, first)
    return method.pairs(space)


class Space(NamedTuple):
    """A space of vectors with their images under the operator, and what is known of the pairs.

    The images are in a unit of the operator's own, so that no square of theirs underflows or
    overflows. The witness is a multiple of one vector of the basis: what the random vector
    added to the space when it came.

    Attributes:
      basis, images: orthonormal vectors v and A v in the first rows, shape (size, d).
      projected: ⟨v_i, A v_j⟩, shape (size, size).
      unit: of images, a power of two; 0 before the first.
      num_vectors: how many there are.
      candidate: what the next vector is made of, shape (d,); 0 asks for a random one.
      values, coefficients: Ritz values, descending, and their vectors in terms of the basis in
        columns, as of the last Rayleigh–Ritz step.
      residuals, errors: of the k best pairs, shape (k,).
      largest: modulus of a Ritz value.
      asymmetry: largest difference of ⟨v_i, A v_j⟩ and ⟨A v_i, v_j⟩.
      products: A v made.
      converged: which of the pairs, shape (k,).
      since_ritz: vectors since the last Rayleigh–Ritz step.
      loudness: of the witness that the next vector will be; 0 where it will be none.
      witness, witness_row: of the witness, its length and its row in the basis; −1 before the
        first, 0 where it has left the space.
      is_fresh: whether the pairs have stayed what they were since the witness came.
      overlooked: bound on the probability that a larger eigenvalue was overlooked.
      broken: whether an image was not finite.
      done: whether there is nothing more to do.
    """

    basis: Float[Array, "size d"]
    images: Float[Array, "size d"]
    projected: Float[Array, "size size"]
    unit: Float[Array, ""]
    num_vectors: Int[Array, ""]
    candidate: Float[Array, " d"]
    values: Float[Array, " size"]
    coefficients: Float[Array, "size size"]
    residuals: Float[Array, " k"]
    errors: Float[Array, " k"]
    largest: Float[Array, ""]
    asymmetry: Float[Array, ""]
    products: Int[Array, ""]
    converged: Bool[Array, " k"]
    since_ritz: Int[Array, ""]
    loudness: Float[Array, ""]
    witness: Float[Array, ""]
    witness_row: Int[Array, ""]
    is_fresh: Bool[Array, ""]
    overlooked: Float[Array, ""]
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
            # the kept pairs and as many vectors again, so that a restart keeps half of its space
            basis_size = max(2 * k + 16, num_start + k + 8, 24)
        size = min(dimension, basis_size)
        kept = min(max(k + 4, num_start), size - 1)
        tolerance = jnp.minimum(tolerance, _LOOSEST)
        return cls(k, stop, tolerance, num_start, dimension, size, kept)

    @property
    def tight_until(self) -> int:
        """Products up to which the tight margin is excluded.

        A space that is full goes on with what is unexplained of its witness. For the tight margin
        that is most of the witness, and nearly all products up to there would be made again: 32 a
        record at the edge, and not 21, in a space of 16 vectors. And the margin stays wide from
        there on: what excludes one eigenvalue excludes larger ones, but not smaller ones.
        """
        return min(TIGHT_UNTIL, self.size - 1)

    def first_space(self, start: Float[Array, "q d"], loudness: Float[Array, ""]) -> Space:
        """The empty space before the first vector; arguments as ``prepared_start`` gives them."""
        most = float(jnp.finfo(start.dtype).max)  # not infinite, which jax_debug_infs refuses
        dtype, k, size, nothing = start.dtype, self.k, self.size, jnp.zeros((), jnp.int32)
        return Space(
            basis=jnp.zeros((size, self.dimension), dtype),
            images=jnp.zeros((size, self.dimension), dtype),
            projected=jnp.zeros((size, size), dtype),
            unit=jnp.zeros((), dtype),
            num_vectors=nothing,
            candidate=start[0],
            values=jnp.zeros((size,), dtype),
            coefficients=jnp.eye(size, dtype=dtype),
            residuals=jnp.full((k,), most, dtype),
            errors=jnp.full((k,), most, dtype),
            largest=jnp.zeros((), dtype),
            asymmetry=jnp.zeros((), dtype),
            products=nothing,
            converged=jnp.zeros((k,), bool),
            since_ritz=nothing,
            loudness=loudness,
            witness=jnp.full((), -1.0, dtype),
            witness_row=nothing,
            is_fresh=jnp.asarray(k == 1),  # of one eigenvalue a second copy changes nothing
            overlooked=jnp.ones((), dtype),
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
        # From there on a single pair may end with any product. Not sooner: with an end at 17 in
        # place of 18 an eigenvalue larger by 1 or 2 %, within the wide margin, was overlooked in
        # one of 5,000 overtakings. By the number of products and not by how near the end is: lanes
        # side by side would get out of step, and wait for one another.
        often = (self.k == 1) & (space.products >= self.tight_until + _VECTORS_BETWEEN)
        soon = space.since_ritz < jnp.where(often, 1, _VECTORS_BETWEEN)
        return room & (soon | (space.products < self.num_start))

    def remainder(self, space: Space) -> tuple[Float[Array, " d"], Bool[Array, ""]]:
        """What the candidate adds to the space, and whether that is more than rounding."""
        rounding = self.dimension**0.5 * jnp.finfo(space.candidate.dtype).eps
        length = jnp.linalg.norm(space.candidate)
        left = _orthogonal(space.candidate / jnp.where(length > 0, length, 1.0), space.basis)
        return left, jnp.linalg.norm(left) > rounding

    def substitute(self, space: Space, seed: Int[Array, ""]) -> Float[Array, " d"]:
        """What a random vector adds to the space, for a candidate that adds nothing."""
        dtype = space.candidate.dtype
        # the first of the iteration's random vectors may have been its start
        vector = random_vector(seed, space.products + 1, self.dimension, dtype)
        return _orthogonal(vector, space.basis)

    def heard(self, space: Space, remainder: Float[Array, " d"], remains: Bool[Array, ""]) -> Space:
        """The space that knows whether the next vector is a witness.

        Args:
          space: before that vector.
          remainder: what it will be made of.
          remains: whether that is left of the candidate; otherwise it is random.
        """
        loudness = jnp.where(remains, space.loudness, 1.0)
        comes = loudness > 0
        return space._replace(
            loudness=jnp.zeros_like(loudness),
            witness=jnp.where(comes, loudness * jnp.linalg.norm(remainder), space.witness),
            witness_row=jnp.where(comes, space.num_vectors, space.witness_row),
            is_fresh=space.is_fresh | ~remains,
        )

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
          vector, image: v and A v, that not yet in the unit of the images.
          grows: False leaves the space as it is, without a copy of it; None is True.
        """
        unit = jnp.where(space.unit > 0, space.unit, power_of_two(image))
        image = image / jnp.where(unit > 0, unit, 1.0)  # exact
        # an index out of range is not written to
        index = (
            space.num_vectors if grows is None else jnp.where(grows, space.num_vectors, self.size)
        )
        basis = space.basis.at[index].set(vector)
        images = space.images.at[index].set(image)
        row, column = images @ vector, basis @ image
        products = space.products + 1
        following = start[jnp.minimum(products, self.num_start - 1)]
        after = space._replace(
            basis=basis,
            images=images,
            projected=space.projected.at[index].set(row).at[:, index].set(column),
            unit=unit,
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
        largest = jnp.max(jnp.where(active, jnp.abs(values), 0.0))
        is_tight = space.products <= self.tight_until
        margin = excluded_margin(self.tolerance, is_tight, values[0], largest)
        solution = self._excluding(space, values, coefficients, margin * largest)
        # A x − B x for the best pairs and for the solution, with one product of matrices each
        left = jnp.concatenate([coefficients[:, : k + 1].T, (coefficients @ solution)[None]])
        right = jnp.concatenate(
            [values[: k + 1, None] * left[:-1], (coefficients @ (values * solution))[None]]
        )
        remainders = left @ space.images - right @ space.basis
        norms = jnp.linalg.norm(remainders, axis=1)
        residuals, unexplained = norms[:k], norms[-1]
        errors = _errors(values, norms[:-1], k, space.num_vectors)
        bounded = errors if self.stop == "estimate" else residuals
        converged = (bounded <= self.tolerance * largest) & (rows[:k] < space.num_vectors)
        settled, whole = jnp.all(converged), space.num_vectors == self.dimension
        missing = miss_probability(unexplained, self.dimension)
        # without a witness in the space it is what it was
        overlooked = jnp.where(whole, 0.0, jnp.where(space.witness > 0, missing, space.overlooked))
        silent = overlooked <= allowed_probability(margin, self.dimension, values.dtype)
        is_fresh = space.is_fresh & (settled | (k == 1))
        asks = settled & ((silent & ~is_fresh) | (space.witness < 0))
        # of a full space no vector stays, so the witness is replaced by what is unexplained of
        # it; where it has excluded all, and several pairs are sought, it may go
        full = space.num_vectors == self.size
        renewed = full & (space.witness > 0) & (~silent | (k == 1))
        follows = ~asks & ((settled & ~silent) | renewed)
        worst = jnp.argmax(jnp.where(converged, -1.0, bounded))
        candidate = jnp.where(follows, remainders[-1], remainders[worst])
        return space._replace(
            candidate=jnp.where(asks, 0.0, candidate),
            loudness=jnp.where(follows & renewed, unexplained, 0.0),
            witness=jnp.where(full & (space.witness > 0), 0.0, space.witness),
            values=values,
            coefficients=coefficients,
            residuals=residuals,
            errors=errors,
            largest=largest,
            converged=converged,
            since_ritz=jnp.zeros((), jnp.int32),
            is_fresh=is_fresh,
            overlooked=overlooked,
            done=(settled & silent & is_fresh) | whole | space.broken,
        )

    def _excluding(
        self,
        space: Space,
        values: Float[Array, " size"],
        coefficients: Float[Array, "size size"],
        margin: Float[Array, ""],
    ) -> Float[Array, " size"]:
        """The Galerkin solution of (λ − A) x = t in terms of the Ritz vectors, λ = θ_k + margin.

        Those of the larger pairs are left out: they have been found, and are not overlooked.
        """
        smaller = jnp.arange(self.size, dtype=jnp.int32) >= self.k - 1
        distance = jnp.where(smaller, values[self.k - 1] + margin - values, 1.0)
        part = jnp.maximum(space.witness, 0.0) * coefficients[space.witness_row]
        distance = jnp.where(distance > 0, distance, 1.0)  # of an operator that is zero
        return jnp.where(smaller, part / distance, 0.0)

    def pairs(self, space: Space) -> RitzPairs:
        """What the space knows of the k largest eigenvalues."""
        best = space.coefficients[:, : self.k + 1].T @ space.basis
        return RitzPairs(
            values=space.unit * space.values[: self.k],
            vectors=best[: self.k],
            next_start=best,
            residuals=space.unit * space.residuals,
            errors=space.unit * space.errors,
            largest=space.unit * space.largest,
            asymmetry=space.unit * space.asymmetry,
            num_products=space.products,
            converged=space.converged & space.done,
            overlooked=space.overlooked,
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
