"""A trajectory, its predicted flow and the minimizer manifold on a sphere of three dimensions."""

from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.experiments.plots import drawing
from sharpflow.experiments.plots.arguments import AX, ON_SPHERE
from sharpflow.models.arguments import FLAG, PARAMS, array, checked, optional
from sharpflow.models.parameter_names import parameter_rows
from sharpflow.models.problem import Params

if TYPE_CHECKING:
    from mpl_toolkits.mplot3d import Axes3D

_TILT = np.deg2rad(27.0)  # of the view out of the plane of the flow: within it all is a line
_RIM = 1e-9


@checked(
    points=ON_SPHERE,
    flow_points=optional(ON_SPHERE),
    manifold_points=optional(ON_SPHERE),
    ax=AX,
    cloud=FLAG,
)
def sphere(
    points: np.ndarray,
    flow_points: np.ndarray | None = None,
    manifold_points: np.ndarray | None = None,
    ax: "Axes3D | None" = None,
    *,
    cloud: bool = False,
) -> "Axes3D":
    """Draw a trajectory and the predicted flow on the unit sphere, seen from where they face.

    What lies on the far side is left out; of the manifold it is drawn, but faintly.

    Args:
      points: θ_t, unit vectors of shape (T, 3), in the order of the steps.
      flow_points: ζ(τ), unit vectors of shape (P, 3), in the order of τ; None where there is
        no prediction.
      manifold_points: Γ, unit vectors of shape (G, 3), in order along it.
      ax: where to draw, of projection ``"3d"``; by default on a new figure.
      cloud: whether ``manifold_points`` have no order and are drawn as dots.

    Returns:
      The axes.

    Raises:
      ValueError: points that are no vectors of shape (T, 3).
    """
    points = np.asarray(points)
    flow_points = None if flow_points is None else np.asarray(flow_points)
    view = facing(points if flow_points is None else flow_points, manifold_points)
    with drawing.styled(ax, size=(3.4, 3.7), projection="3d") as ax:
        _look_from(ax, view)
        _globe(ax, view)
        if manifold_points is not None:
            manifold = np.asarray(manifold_points)
            look: dict[str, Any] = {"color": drawing.OTHER, "linewidth": 1.1}
            if cloud:
                look |= {"linestyle": "none", "marker": ".", "markersize": 2.0}
            ax.plot(*_where(manifold @ view[2] <= _RIM, manifold).T, **look, alpha=0.2, zorder=2)
            ax.plot(*_near(manifold, view).T, **look, zorder=3, label=r"minimizers $\Gamma$")
        ax.plot(
            *_near(points, view).T,
            color=(drawing.MEASURED, 0.45),
            linewidth=0.5,
            marker="o",
            markersize=_dot_size(len(points)),
            markeredgewidth=0.0,
            markerfacecolor=drawing.MEASURED,
            zorder=4,
            label=r"GD+WD $\theta_t$",
        )
        if flow_points is not None:
            _flow(ax, flow_points, view)
        ax.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, 0.0),
            ncols=3,
            columnspacing=1.2,
            markerscale=4.0 / _dot_size(len(points)),
        )
    return ax


@checked(theta=PARAMS, basis=array(2))
def sphere_coordinates(theta: Params, basis: np.ndarray) -> np.ndarray:
    """Project directions onto the span of three vectors, and back onto the unit sphere.

    What lies outside that span is dropped: exact for d = 3, else a picture only.

    Args:
      theta: params or directions, a pytree with a leading axis (T, ...), d entries each.
      basis: orthonormal rows, shape (3, d), as ``basis_from`` returns.

    Returns:
      Unit vectors, shape (T, 3).

    Raises:
      ValueError: a basis that is not of shape (3, d).
    """
    rows = parameter_rows(theta)
    if np.shape(basis) != (3, rows.shape[1]):
        raise ValueError(
            f"basis must have shape (3, {rows.shape[1]}) for theta of shape {rows.shape}, "
            f"got {np.shape(basis)}"
        )
    inside = rows.astype(float) @ np.asarray(basis).T
    return inside / np.linalg.norm(inside, axis=1, keepdims=True)


@checked(flow_points=PARAMS)
def basis_from(flow_points: Params) -> np.ndarray:
    """The mean direction of points and the two directions in which they spread most.

    Args:
      flow_points: a pytree with a leading axis (T, ...), d ≥ 3 entries each.

    Returns:
      Orthonormal rows, shape (3, d).

    Raises:
      ValueError: fewer than three dimensions, or points without a mean direction.
    """
    rows = parameter_rows(flow_points).astype(float)
    mean = rows.mean(axis=0)
    if rows.shape[1] < 3 or np.linalg.norm(mean) < 1e-6 * np.linalg.norm(rows[0]):
        raise ValueError(
            "flow_points must have at least three entries each and a mean that is not zero, got "
            f"shape {rows.shape} and a mean of norm {np.linalg.norm(mean):.2g}"
        )
    basis = [_unit(mean)]
    _, sizes, directions = np.linalg.svd(_without(rows, basis), full_matrices=False)
    wanted = directions[sizes > 1e-9 * np.linalg.norm(rows)][:2]
    # points of a plane spread in one direction only: a coordinate completes the basis
    for candidate in (*wanted, *np.eye(3, rows.shape[1])):
        rest = _without(_without(candidate, basis), basis)
        if len(basis) < 3 and np.linalg.norm(rest) > 0.5:
            basis.append(_unit(rest))
    return np.stack(basis)


def facing(flow_points: np.ndarray, manifold_points: np.ndarray | None = None) -> np.ndarray:
    """Where ``sphere`` is seen from: the flow runs to the right, bent downwards.

    Args:
      flow_points, manifold_points: as ``sphere`` takes them.

    Returns:
      Orthonormal rows: right, up and toward the viewer, shape (3, 3).
    """
    middle = flow_points.mean(axis=0)
    if manifold_points is not None:
        of_all = np.mean(manifold_points, axis=0)
        middle = of_all if np.linalg.norm(of_all) > 0.3 and of_all @ middle > 0 else middle
    middle = _unit(middle)
    run = _without(flow_points[-1] - flow_points[0], [middle])
    if np.linalg.norm(run) < 1e-9:
        run = _without(np.eye(3)[np.argmin(np.abs(middle))], [middle])
    right = _unit(run)
    pole = np.cross(middle, right)
    return np.stack(
        [
            right,
            np.cos(_TILT) * pole - np.sin(_TILT) * middle,
            np.cos(_TILT) * middle + np.sin(_TILT) * pole,
        ]
    )


def _look_from(ax: "Axes3D", view: np.ndarray) -> None:
    """Set the camera, without perspective, and leave nothing but the drawing."""
    right, _, toward = view
    elevation, azimuth = np.arcsin(np.clip(toward[2], -1.0, 1.0)), np.arctan2(toward[1], toward[0])
    level = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])  # right, before the roll
    roll = -np.arctan2(toward @ np.cross(level, right), level @ right)
    ax.view_init(*np.rad2deg([elevation, azimuth, roll]))
    ax.set_proj_type("ortho")
    ax.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1))
    ax.set_box_aspect((1, 1, 1), zoom=1.62)
    ax.computed_zorder = False
    ax.set_axis_off()


def _globe(ax: "Axes3D", view: np.ndarray) -> None:
    """The near side of the unit sphere: a disc, with circles about the pole of the flow."""
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    right, up, toward = view
    turn = np.linspace(0.0, 2.0 * np.pi, 181)[:, None]
    rim = np.cos(turn) * right + np.sin(turn) * up
    ax.add_collection3d(
        Poly3DCollection(
            [rim], facecolor="#f4f5f7", edgecolor=drawing.THRESHOLD, linewidth=0.7, zorder=0
        )
    )
    middle = np.cos(_TILT) * toward - np.sin(_TILT) * up
    pole = np.cos(_TILT) * up + np.sin(_TILT) * toward
    for degrees in range(-60, 90, 30):
        height = np.deg2rad(degrees)
        around = np.cos(turn) * middle + np.sin(turn) * right
        _faint(ax, np.cos(height) * around + np.sin(height) * pole, view)
    for degrees in range(0, 180, 30):
        across = np.cos(np.deg2rad(degrees)) * right + np.sin(np.deg2rad(degrees)) * middle
        _faint(ax, np.cos(turn) * across + np.sin(turn) * pole, view)


def _flow(ax: "Axes3D", flow_points: np.ndarray, view: np.ndarray) -> None:
    """The predicted flow, with a hollow dot where it begins and a full one where it ends.

    It has a white rim: where the trajectory follows it closely both are seen.
    """
    path = _near(flow_points, view).T
    ax.plot(*path, color="white", linewidth=1.9, zorder=5)
    ax.plot(*path, color=drawing.PREDICTED, linewidth=1.2, zorder=5, label=r"flow $\zeta(\tau)$")
    for end, face in zip(flow_points[[0, -1]], ("white", drawing.PREDICTED), strict=True):
        ax.plot(
            *_near(end[None], view).T,
            marker="o",
            markersize=5.0,
            markerfacecolor=face,
            markeredgecolor=drawing.PREDICTED,
            zorder=6,
        )


def _dot_size(count: int) -> float:
    """Points across a dot: few are seen one by one, and thousands are not a blot."""
    return float(np.clip(45.0 / np.sqrt(count), 1.1, 3.2))


def _faint(ax: "Axes3D", circle: np.ndarray, view: np.ndarray) -> None:
    ax.plot(*_near(circle, view).T, color=drawing.FAINT, linewidth=0.5, zorder=1)


def _near(points: np.ndarray, view: np.ndarray) -> np.ndarray:
    return _where(points @ view[2] >= -_RIM, points)


def _where(kept: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.where(kept[:, None], points, np.nan)


def _without(vectors: np.ndarray, directions: list[np.ndarray]) -> np.ndarray:
    """``vectors`` less their components along orthonormal ``directions``."""
    basis = np.stack(directions)
    return vectors - (vectors @ basis.T) @ basis


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
