"""The top of a symmetric operator's spectrum, by a block-started Lanczos method with restarts."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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
    num_start, dimension = start.shape
    dtype = start.dtype
    if basis_size is None:
        basis_size = max(2 * k + 16, num_start + k + 8, 24)
    size = min(dimension, basis_size)
    kept = min(max(k + 4, num_start), size - 1)
    rounding = dimension**0.5 * jnp.finfo(dtype).eps
    most_products = size + _MAX_CYCLES * max(size - kept, 1)
    fresh = jax.random.normal(jax.random.key(1), (dimension,), dtype)

    def extend(state: dict) -> dict:
        """One more vector and its image, with which the next one would go on."""
        basis, images, count = state["basis"], state["images"], state["count"]
        substitute = jnp.roll(fresh, state["products"])
        vector = _orthonormal(state["candidate"], basis, substitute, rounding)
        image = matvec(vector)
        basis, images = basis.at[count].set(vector), images.at[count].set(image)
        row, column = images @ vector, basis @ image
        projected = state["projected"].at[count].set(row).at[:, count].set(column)
        products = state["products"] + 1
        following = start[jnp.minimum(products, num_start - 1)]
        return state | {
            "basis": basis,
            "images": images,
            "projected": projected,
            "count": count + 1,
            "candidate": jnp.where(products < num_start, following, image),
            "asymmetry": jnp.maximum(state["asymmetry"], jnp.max(jnp.abs(row - column))),
            "products": products,
            "broken": ~jnp.all(jnp.isfinite(image)),
            "since_ritz": state["since_ritz"] + 1,
        }

    def more(state: dict) -> Array:
        room = (state["count"] < size) & ~state["broken"]
        return room & ((state["since_ritz"] < _VECTORS_BETWEEN) | (state["products"] < num_start))

    def compressed(state: dict) -> dict:
        """The best Ritz vectors in place of the whole space."""
        room = jnp.zeros((size - kept, dimension), dtype)
        turn = state["coefficients"][:, :kept].T
        diagonal = jnp.where(rows < kept, state["values"], 0.0)
        return state | {
            "basis": jnp.concatenate([turn @ state["basis"], room]),
            "images": jnp.concatenate([turn @ state["images"], room]),
            "projected": jnp.diag(diagonal),
            "count": jnp.asarray(kept, jnp.int32),
        }

    def examine(state: dict) -> dict:
        """A few more vectors, then the Ritz pairs of the larger space."""
        state = jax.lax.cond(state["count"] == size, compressed, lambda s: s, state)
        state = jax.lax.while_loop(more, extend, state)
        basis, images, count = state["basis"], state["images"], state["count"]
        active = rows < count
        values, coefficients = _ritz(state["projected"], active)
        top = coefficients[:, : k + 1].T
        remainders = top @ images - values[: k + 1, None] * (top @ basis)
        norms = jnp.linalg.norm(remainders, axis=1)
        remainders, residuals = remainders[:k], norms[:k]
        largest = jnp.max(jnp.where(active, jnp.abs(values), 0.0))
        errors = _errors(values, norms, k, count)
        bounded = errors if stop == "estimate" else residuals
        converged = (bounded <= tolerance * largest) & (rows[:k] < count)
        return state | {
            "candidate": remainders[jnp.argmax(jnp.where(converged, -1.0, bounded))],
            "values": values,
            "coefficients": coefficients,
            "residuals": residuals,
            "errors": errors,
            "size": largest,
            "converged": converged,
            "since_ritz": nothing,
            "done": jnp.all(converged) | (count == dimension) | state["broken"],
        }

    def unfinished(state: dict) -> Array:
        return ~state["done"] & (state["products"] < most_products)

    rows = jnp.arange(size, dtype=jnp.int32)
    nothing = jnp.zeros((), jnp.int32)
    state = {
        "basis": jnp.zeros((size, dimension), dtype),
        "images": jnp.zeros((size, dimension), dtype),
        "projected": jnp.zeros((size, size), dtype),
        "count": nothing,
        "candidate": start[0],
        "values": jnp.zeros((size,), dtype),
        "coefficients": jnp.eye(size, dtype=dtype),
        "residuals": jnp.full((k,), jnp.inf, dtype),
        "errors": jnp.full((k,), jnp.inf, dtype),
        "size": jnp.zeros((), dtype),
        "asymmetry": jnp.zeros((), dtype),
        "products": nothing,
        "converged": jnp.zeros((k,), bool),
        "since_ritz": nothing,
        "broken": jnp.zeros((), bool),
        "done": jnp.zeros((), bool),
    }
    state = jax.lax.while_loop(unfinished, examine, state)
    best = state["coefficients"][:, : k + 1].T @ state["basis"]
    return RitzPairs(
        values=state["values"][:k],
        vectors=best[:k],
        next_start=best,
        residuals=state["residuals"],
        errors=state["errors"],
        size=state["size"],
        asymmetry=state["asymmetry"],
        num_products=state["products"],
        converged=state["converged"],
    )


def pseudo_random_block(rows: int, dimension: int, dtype: jnp.dtype) -> Float[Array, "q d"]:
    """Fixed vectors with no structure that an operator could be orthogonal to."""
    return jax.random.normal(jax.random.key(0), (rows, dimension), dtype)


def _orthonormal(vector: Array, basis: Array, substitute: Array, rounding: float) -> Array:
    """``vector``, or else ``substitute``, made orthonormal to the rows of ``basis``."""

    def orthogonal(vector: Array) -> Array:
        return vector - (basis @ vector) @ basis

    length = jnp.linalg.norm(vector)
    remainder = orthogonal(vector / jnp.where(length > 0, length, 1.0))
    remains = jnp.linalg.norm(remainder) > rounding
    remainder = jax.lax.cond(remains, lambda: remainder, lambda: orthogonal(substitute))
    remainder = orthogonal(remainder / jnp.linalg.norm(remainder))  # twice is enough
    return remainder / jnp.linalg.norm(remainder)


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
