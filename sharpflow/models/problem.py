"""What is trained: a loss on a pytree of parameters, in one of three forms, and its data."""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from sharpflow.models.arguments import (
    FLAG,
    Kind,
    checked,
    instance,
    optional,
    shown,
)
from sharpflow.models.bound_function import BoundFunction, is_pytree_of_arrays
from sharpflow.models.leaves import is_concrete, validated_leaves
from sharpflow.models.names import require_free
from sharpflow.models.precision import FULL, MatmulPrecision, validated_precision
from sharpflow.models.representation import Summary, of_params, summarized, words
from sharpflow.models.static_function import StaticFunction, static_part

Params: TypeAlias = PyTree[Float[Array, "..."]]
Scalar = Float[Array, ""]

_FORMS = ("residual", "outputs", "criterion", "loss")


def _is_record(value: Any) -> bool:
    """Whether JSON holds a dictionary as it is, and says the same of it in every program."""
    try:
        return isinstance(value, Mapping) and bool(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return False


SOURCE = Kind("a dictionary that JSON can hold", _is_record)


@summarized
@jax.tree_util.register_pytree_with_keys_class
class Problem:
    """A loss L, the data that it is made of, how its parameters start, and its metrics.

    Give exactly one form of the loss; later forms know less about it:

    * ``residual``: params -> (m,) array, with L = ½‖residual‖²;
    * ``outputs`` (params -> array) and ``criterion`` (array -> scalar), with
      L = criterion(outputs(params)) and the criterion convex. A criterion may know its
      residual form: a method ``residual``, array -> (m,), with ½‖residual‖² equal to
      the criterion minus its minimum to second order. Without one the theory forms it
      from the criterion's Hessian in all outputs together, for small problems only;
    * ``loss``: params -> scalar. It has no minimizer manifold Γ that the theory
      could use: it is simulated, its curvature measured, and predicted by the central flow.

    With ``data`` every one of these functions, ``init`` and the metrics too, may take the data
    as a second argument: residual(params, data), criterion(outputs, data), init(key, data). A
    function takes the data if it requires two positional arguments, or takes ``*args``;
    the others go on without. Once bound, they are called without the data:
    ``problem.residual(params)``.

    A problem is a pytree whose leaves are its data. Compiled functions take it as an ordinary
    argument: they are compiled once for all problems that have the same functions and data of
    the same shapes, they hold no copy of the data, and the data are freed with the problem.
    Problems that differ in their data alone can be stacked, mapped over by ``jax.vmap`` and
    placed on devices as any pytree. A callable that is itself a pytree of arrays, as
    ``jax.tree_util.Partial`` is, contributes its arrays to the leaves.

    Two functions count as the same if they are sure to compute the same. That holds for one and
    the same function. It holds too for equal ``functools.partial``s, bound methods of equal frozen
    data classes, Flax modules and other callables that compare themselves by value. But their
    closures, their defaults and the global names in their code must hold the same numbers, text,
    jax arrays, functions and classes. A function may also read something that can change in place,
    such as a numpy array, a list or an object with attributes. Then it is compiled for each
    problem anew; it counts as the same only in problems that ``with_data``, ``with_metrics`` and
    ``at_precision`` make of this one.

    Arrays that a function closes over are not leaves. They become constants of every program that
    uses them, and live as long as it does. Give large arrays as ``data``.

    A problem stays what its functions read when it was made. If a name that they read has another
    value by the time they run or are traced, they refuse. If an object changes in place, programs
    that are traced later see the change, and earlier ones do not.

    As an object a problem is compared and hashed by identity.

    Args:
      init: key -> params, a pytree of floating-point arrays of one dtype. Params that have other
        shapes are refused by all that takes the problem. An init that draws no arrays, or that jax
        cannot trace, leaves the shapes to the loss.
      residual, outputs, criterion, loss: the loss, as above.
      metrics: named functions params -> scalar, for instance a test error. Each becomes a column
        of this name, which no other column has.
      scale_invariant: False marks an ablation without normalization, which is
        simulated but gets no flow on the sphere. True says that the loss is invariant to the scale
        of its params. By default it is taken to be, and ``simulate`` and ``simulate_grid`` look
        once whether it is, and warn where it is not.
      data: a pytree of arrays, or None. Numbers of Python take the dtype of the floating-point
        arrays among them; without any they adapt to the params.

    Attributes:
      init, residual, outputs, criterion, loss, metrics: the same functions with their data,
        or None; ``loss`` is there for every form.
      scale_invariant: whether the loss is taken to be invariant: all but the marked ones.
      data: as above.
      matmul_precision: of the products that these functions make; see ``at_precision``.
      source: what the data were read from, as ``with_source`` was told; empty where nobody said.

    Raises:
      ValueError: not exactly one form is given, something that is no function or takes neither
        one argument nor two, metrics without names or with the name of another column, data that
        are no arrays, a function that needs data where there are none, or one with a default for
        its ``data``.
    """

    scale_invariant: bool
    data: Any
    matmul_precision: MatmulPrecision
    source: Mapping[str, Any]
    _mark: bool | None
    _answered: set[str]
    _functions: dict[str, BoundFunction]
    _metrics: dict[str, BoundFunction]

    def __init__(
        self,
        init: Callable[..., Params],
        residual: Callable[..., Float[Array, " m"]] | None = None,
        outputs: Callable[..., Array] | None = None,
        criterion: Callable[..., Scalar] | None = None,
        loss: Callable[..., Scalar] | None = None,
        metrics: Mapping[str, Callable[..., Scalar]] | None = None,
        scale_invariant: bool | None = None,
        *,
        data: Any = None,
    ) -> None:
        optional(FLAG).require("scale_invariant", scale_invariant)
        given = {"residual": residual, "outputs": outputs, "criterion": criterion, "loss": loss}
        forms = {name: function for name, function in given.items() if function is not None}
        data = validated_leaves(data)
        functions = {
            name: _bound(name, function, data)
            for name, function in ({"init": init} | forms).items()
        }
        named = _bound_metrics({} if metrics is None else metrics, data)
        if (outputs is None) != (criterion is None):
            raise ValueError("outputs and criterion belong together: give both or neither")
        given_forms = [name for name in forms if name != "criterion"]
        if len(given_forms) != 1:
            raise ValueError(
                "a Problem takes exactly one of residual, outputs with criterion, or loss; "
                f"got {given_forms or 'none'}"
            )
        self._set(functions, named, data, scale_invariant, FULL, {})

    def _set(
        self,
        functions: dict[str, BoundFunction],
        metrics: dict[str, BoundFunction],
        data: Any,
        mark: bool | None,
        precision: MatmulPrecision,
        source: Mapping[str, Any],
    ) -> None:
        # Past __setattr__, which refuses: a problem whose functions changed would still be taken
        # for the one that its programs were compiled for.
        vars(self).update(
            _functions=functions,
            _metrics=metrics,
            data=data,
            scale_invariant=mark is not False,
            matmul_precision=precision,
            source=source,
            _mark=mark,
            _answered=set(),
        )

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Problem does not change: make another one for another {name}")

    def _summary(self) -> Summary:
        forms = {name: self._functions[name] for name in _FORMS if name in self._functions}
        data = [leaf for leaf in jax.tree.leaves(self.data) if hasattr(leaf, "shape")]
        invariant = "yes" if self.scale_invariant else "marked as not: no flow on the sphere"
        if not self.is_marked:
            invariant = "taken to be, not measured: see check_scale_invariance"
        return Summary(
            f"Problem with a loss by its {' and '.join(forms)}",
            [
                *((name, words(bound.function)) for name, bound in forms.items()),
                ("metrics", ", ".join(self._metrics) or "none"),
                ("data", of_params(data) if data else "none"),
                ("scale-invariant", invariant),
                ("has a manifold Γ", "yes" if self.has_manifold_form else "no: a loss alone"),
                ("products", f"at {self.matmul_precision} precision"),
            ],
        )

    @property
    def init(self) -> Callable[[Key[Array, ""]], Params]:
        """Draws params: a function of a key of ``jax.random``."""
        return self._functions["init"]

    @property
    def residual(self) -> Callable[[Params], Float[Array, " m"]] | None:
        """r(params), shape (m,), with L = ½‖r‖²; None for a problem of another form."""
        return self._functions.get("residual")

    @property
    def outputs(self) -> Callable[[Params], Array] | None:
        """What the criterion judges, a function of params; None for a problem of another form."""
        return self._functions.get("outputs")

    @property
    def criterion(self) -> Callable[[Array], Scalar] | None:
        """outputs -> scalar, or None; the object that was given, unless it takes the data.

        Of one that takes the data, what its method ``of`` makes of them, if it has one.
        """
        bound = self.bound_criterion
        if bound is None or not bound.takes_data:
            return None if bound is None else bound.function
        of_data = self._of_criterion("of")
        return bound if of_data is None else of_data(self.data)

    @property
    def bound_criterion(self) -> BoundFunction | None:
        """outputs -> scalar, or None; as compiled functions take it."""
        return self._functions.get("criterion")

    @property
    def criterion_residual(self) -> Callable[[Array], Float[Array, " m"]] | None:
        """outputs -> (m,) array, the residual form that the criterion knows, or None."""
        known = self._of_criterion("residual")
        if known is None:
            return None
        precision = self.matmul_precision
        return BoundFunction.of(known, self.data, precision, static=StaticFunction)

    @property
    def loss(self) -> Callable[[Params], Scalar]:
        """params -> scalar: L, whatever form it was given in."""
        if "loss" in self._functions:
            return self._functions["loss"]
        if "residual" in self._functions:
            # The parts go along as data of the function, and not in a closure: a closure would be
            # another function at every call, with programs of its own, and would hold the data as
            # constants.
            parts: Any = self._functions["residual"]
            return self._of_parts(_half_square, parts)
        parts = (self._functions["outputs"], self._functions["criterion"])
        return self._of_parts(_composed, parts)

    @property
    def metrics(self) -> dict[str, Callable[[Params], Scalar]]:
        """What is watched beside the loss: functions params -> scalar, by name."""
        return dict(self._metrics)

    @property
    def has_manifold_form(self) -> bool:
        """Whether the loss comes in a form that defines the minimizer manifold Γ."""
        return "residual" in self._functions or "outputs" in self._functions

    @property
    def loss_infimum(self) -> Float[Array, ""] | float:
        """inf L: 0 for a residual, and what a criterion tells as its ``infimum``, else 0.

        A criterion that takes the data may tell it by a method that takes them.
        """
        known = self._of_criterion("infimum")
        if known is None:
            return 0.0
        value = known(self.data) if callable(known) else known
        return float(value) if is_concrete(value) else value

    @property
    def is_marked(self) -> bool:
        """Whether ``scale_invariant`` was said, and not merely taken to be True."""
        return self._mark is not None

    def is_new_to(self, question: str) -> bool:
        """Whether this object is asked a question for the first time, which then counts as asked.

        What is looked at once for each problem, and not for each simulation of it, asks here.

        Args:
          question: in a word.
        """
        new = question not in self._answered
        self._answered.add(question)
        return new

    def loss_value(self, params: Params) -> Scalar:
        """L(params).

        Args:
          params: a pytree as of ``init``.

        Returns:
          Shape ().
        """
        return self.loss(params)

    def at_precision(self, precision: MatmulPrecision) -> "Problem":
        """The same problem with products of another precision, for training steps of one's own.

        The functions of this problem have this precision where they are called. What the package
        computes with a problem does not depend on it: curvature, retraction, flow and records
        are made at the highest, and the training steps of a simulation at its own
        ``matmul_precision``. ``check_scale_invariance`` checks the problem as it is.

        Args:
          precision: of float32 products, as ``jax.lax.Precision`` has it. ``"highest"`` is true
            float32 on every backend, ``"high"`` three passes in bfloat16 on a TPU and TF32 on
            a GPU that has it, ``"default"`` one pass in bfloat16 on a TPU and TF32 on a GPU
            that has it. On a CPU they are the same.

        Returns:
          A problem with the same data.

        Raises:
          ValueError: another precision.
        """
        validated_precision(precision)
        return self._changed(lambda bound: bound.at_precision(precision), precision=precision)

    def with_data(self, data: Any) -> "Problem":
        """The same functions with other data.

        Args:
          data: a pytree of arrays with the structure that the functions expect. Of a network
            of this package ``dataclasses.replace(problem.data, inputs=..., targets=...)``.

        Returns:
          A problem that shares all compiled programs with this one, if the shapes are equal.

        Raises:
          ValueError: this problem was made without data, or none of its functions takes them,
            or data that are None, no arrays, or of a network and of different numbers of rows.
        """
        if self.data is None:
            raise ValueError("this problem was made without data, which its functions ignore")
        if not any(f.takes_data for f in (*self._functions.values(), *self._metrics.values())):
            raise ValueError(
                "no function of this problem takes its data as a second argument, so other data "
                "would change nothing"
            )
        if data is None:
            raise ValueError("data must be a pytree of arrays, as this problem has, got None")
        data = validated_leaves(data)
        if hasattr(data, "require_matching_rows"):
            data.require_matching_rows()
        return self._changed(lambda bound: bound.with_data(data), data=data)

    def with_metrics(self, metrics: Mapping[str, Callable[..., Scalar]]) -> "Problem":
        """The same problem with other metrics.

        Args:
          metrics: named functions of params, or of params and the data of this problem.

        Raises:
          ValueError: something that is no function, or the name of another column.
        """
        named = _bound_metrics(metrics, self.data)
        # The new metrics are bound at the highest precision and the other functions at that of this
        # problem. One call brings all of them to the same.
        made = _made(self._functions, named, self.data, self._mark, FULL, self.source)
        return made.at_precision(self.matmul_precision)

    @checked(source=SOURCE)
    def with_source(self, source: Mapping[str, Any]) -> "Problem":
        """The same problem, with a record of what its data were read from.

        A run writes it into its provenance. It changes no number, and problems that differ in it
        alone share their compiled programs. ``with_data`` leaves it out, and so does jax where it
        makes a problem of other leaves: what was said of the data need not hold of others.

        Args:
          source: by name, fit for JSON; of images what ``Images.source`` says of them, such as
            ``{"train": train.source, "test": test.source}``.

        Raises:
          ValueError: no dictionary, or something in it that JSON cannot hold.
        """
        # a copy through JSON, which nobody changes later
        kept = json.loads(json.dumps(source))
        return _made(
            self._functions, self._metrics, self.data, self._mark, self.matmul_precision, kept
        )

    def tree_flatten_with_keys(self) -> tuple[tuple, tuple]:
        """The leaves of a problem and what is static of it, as jax asks for them.

        Returns:
          The data and the arrays of functions that are pytrees, each with its key; and the rest.
        """
        # The data are one child of the problem, although every bound function refers to them. With
        # each function as a child they would be traced, placed and stacked once for every function.
        functions = {**self._functions, **{_METRIC + n: m for n, m in self._metrics.items()}}
        own = {name: f.function for name, f in functions.items() if f.static is None}
        rest = tuple((n, static_part(f.static), f.takes_data) for n, f in functions.items())
        attribute = jax.tree_util.GetAttrKey
        children = ((attribute("data"), self.data), (attribute("functions"), own))
        return children, (rest, self._mark, self.matmul_precision)

    @classmethod
    def tree_unflatten(cls, constants: tuple, children: tuple) -> "Problem":
        """A problem with other data, which may be traced.

        Args:
          constants, children: as ``tree_flatten_with_keys`` gives them, without keys.

        Returns:
          The problem.
        """
        rest, mark, precision = constants
        data, own = children
        functions = {
            name: BoundFunction(
                own[name] if static is None else static.function,
                static,
                data if takes_data else None,
                takes_data,
                precision,
            )
            for name, static, takes_data in rest
        }
        roles = {name: f for name, f in functions.items() if not name.startswith(_METRIC)}
        metrics = {n[len(_METRIC) :]: f for n, f in functions.items() if n.startswith(_METRIC)}
        return _made(roles, metrics, data, mark, precision, {})

    def _changed(
        self,
        change: Callable[[BoundFunction], BoundFunction],
        *,
        data: Any = None,
        precision: MatmulPrecision | None = None,
    ) -> "Problem":
        return _made(
            {name: change(function) for name, function in self._functions.items()},
            {name: change(metric) for name, metric in self._metrics.items()},
            self.data if data is None else data,
            self._mark,
            self.matmul_precision if precision is None else precision,
            self.source if data is None else {},
        )

    def _of_parts(self, function: Callable[..., Any], parts: Any) -> BoundFunction:
        """A function of ours with parts of this problem, which tell problems apart."""
        return BoundFunction(function, StaticFunction(function), parts, True, self.matmul_precision)

    def _of_criterion(self, name: str) -> Any:
        """What the criterion knows of itself under a name, or None."""
        # A criterion that was taken from another problem is bound already, and the bound function
        # does not have the attributes of what it wraps.
        known: Any = self._functions.get("criterion")
        while isinstance(known, BoundFunction):
            known = known.function
        return getattr(known, name, None)


PROBLEM = instance(Problem, "a sharpflow.Problem")

_METRIC = "metric "  # before the name of a metric, where it stands among the other functions


def _made(
    functions: dict[str, BoundFunction],
    metrics: dict[str, BoundFunction],
    data: Any,
    mark: bool | None,
    precision: MatmulPrecision,
    source: Mapping[str, Any],
) -> Problem:
    """A problem of parts that are known to be right, or that jax puts in their places."""
    problem = object.__new__(Problem)
    problem._set(functions, metrics, data, mark, precision, source)
    return problem


def _bound(name: str, function: Any, data: Any) -> BoundFunction:
    if getattr(function, "__func__", None) is Problem.loss_value:
        # A user may wrap one problem in another by the method. The method would close over the data
        # of the first one; the property gives a function of which they are leaves.
        function = function.__self__.loss  # whose data are leaves
    if not callable(function):
        raise ValueError(f"{name} must be a function, got {shown(function)}")
    if is_pytree_of_arrays(function):
        function = validated_leaves(function, name)
    try:
        return BoundFunction.of(function, data, FULL)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _bound_metrics(metrics: Any, data: Any) -> dict[str, BoundFunction]:
    if not isinstance(metrics, Mapping) or not all(isinstance(name, str) for name in metrics):
        raise ValueError(f"metrics must be a dictionary of functions by name, got {metrics!r}")
    require_free("metrics", metrics)
    return {name: _bound(f"metrics[{name!r}]", metric, data) for name, metric in metrics.items()}


def _half_square(params: Params, residual: Callable[[Params], Array]) -> Scalar:
    return 0.5 * jnp.sum(jnp.square(residual(params)))


def _composed(params: Params, parts: tuple[Callable, Callable]) -> Scalar:
    outputs, criterion = parts
    return criterion(outputs(params))
