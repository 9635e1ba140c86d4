"""Objects as plain JSON and bytes, bit for bit, and back. No pickle: no name is looked up."""

import dataclasses
import enum
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict

from sharpflow.models.arguments import shown
from sharpflow.models.representation import Summary, summarized
from sharpflow.models.static_text import StaticText

_MAPPINGS: dict[str, type] = {"dict": dict, "OrderedDict": OrderedDict, "FrozenDict": FrozenDict}
_SEQUENCES: dict[str, type] = {"list": list, "tuple": tuple}

Classes = Mapping[str, type]


@summarized
@partial(
    jax.tree_util.register_dataclass, data_fields=("leaves",), meta_fields=("structure", "paths")
)
@dataclasses.dataclass(frozen=True)
class StoredLeaves:
    """The leaves of a pytree of other classes than Python's own, as a file keeps them.

    A file that named a class could make whoever reads it call that class. The classes therefore
    come from an example, which the one who reads has anyway: the start of an optimizer, or params.

    Attributes:
      leaves: in the order of the pytree.
      structure: its classes and keys in words, to be compared.
      paths: where each leaf stood, as ``"[0].mu['kernel']"``.
    """

    leaves: tuple[Any, ...]
    structure: str
    paths: tuple[str, ...]

    @classmethod
    def of(cls, tree: Any) -> "StoredLeaves":
        """The leaves of any pytree; of what a file gave back, itself."""
        if isinstance(tree, cls):
            return tree
        paths_and_leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
        return cls(
            leaves=tuple(leaf for _, leaf in paths_and_leaves),
            structure=_structure_in_words(structure),
            paths=tuple(jax.tree_util.keystr(path) for path, _ in paths_and_leaves),
        )

    def fits(self, example: Any) -> bool:
        """Whether these are the leaves of such a pytree, of the same shapes.

        Args:
          example: a pytree with the classes that the file does not hold.
        """
        other = StoredLeaves.of(example)
        return (self.structure, self.paths) == (other.structure, other.paths) and all(
            jnp.shape(mine) == jnp.shape(others)
            for mine, others in zip(self.leaves, other.leaves, strict=True)
        )

    def like(self, example: Any) -> Any:
        """The pytree, with the classes of an example that ``fits``.

        Args:
          example: as of ``fits``.
        """
        return with_leaves(example, self.leaves)

    def _summary(self) -> Summary:
        return Summary(f"the leaves of {self.structure}")


def with_leaves(example: Any, leaves: Any) -> Any:
    """A pytree like an example, of leaves that were read from a file.

    Args:
      example: a pytree of the same structure.
      leaves: its leaves in their order.

    Returns:
      The pytree. NumPy's files keep the bytes of bfloat16 and not what they mean; such a leaf gets
      the dtype of the example.
    """
    like, structure = jax.tree.flatten(example)
    typed = (
        leaf.view(own.dtype) if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "V" else leaf
        for leaf, own in zip(leaves, like, strict=True)
    )
    return jax.tree.unflatten(structure, typed)


def has_stored_leaves(tree: Any) -> bool:
    """Whether a part of a pytree lacks its classes.

    Args:
      tree: any pytree.
    """
    parts = jax.tree.leaves(tree, is_leaf=_is_stored)
    return any(map(_is_stored, parts))


def _is_stored(value: Any) -> bool:
    return isinstance(value, StoredLeaves)


def _structure_in_words(structure: Any) -> str:
    """Classes and keys, without modules: a library may move a class within itself."""
    data = structure.node_data()
    if data is None:
        return "*" if structure.num_leaves else "None"
    kind, keys = data
    children = [_structure_in_words(child) for child in structure.children()]
    if isinstance(keys, (list, tuple)) and all(isinstance(key, str) for key in keys):
        children = [f"{key}: {child}" for key, child in zip(keys, children, strict=False)]
    return f"{kind.__name__}({', '.join(children)})"


class Writer:
    """Makes JSON of objects, and one vector of bytes of the arrays in them.

    Args:
      columns: labelled arrays that the same file holds; an array that is one of them bit for bit is
        not written twice.
      classes: of the data classes and enumerations that may be among the objects, by name.
    """

    def __init__(self, columns: Mapping[str, np.ndarray], classes: Classes) -> None:
        self._columns = {_digest(values): name for name, values in columns.items()}
        self._classes = {kind: name for name, kind in classes.items()}
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def content(self) -> np.ndarray:
        """All bytes so far, shape (n,), uint8."""
        return np.frombuffer(b"".join(self._parts), np.uint8)

    def node(self, value: Any, place: str) -> Any:
        """A value as JSON.

        Args:
          value: numbers, text, arrays, dictionaries, lists, tuples, other pytrees, and instances of
            the classes.
          place: what to call it in an error, as ``"attributes['seed']"``.

        Returns:
          Nested lists and dictionaries for ``json.dumps``.

        Raises:
          ValueError: something else.
        """
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if kind is StaticText:
            return str(value)
        if kind in self._classes:
            if isinstance(value, enum.Enum):
                return {"enum": self._classes[kind], "name": value.name}
            fields = {
                field.name: self.node(getattr(value, field.name), f"{place}.{field.name}")
                for field in dataclasses.fields(value)
            }
            return {"object": self._classes[kind], "fields": fields}
        if isinstance(value, (jax.Array, np.ndarray, np.generic)):
            return self._array(value, place)
        for name, mapping in _MAPPINGS.items():
            if kind is mapping and all(type(key) in (str, int) for key in value):
                pairs = [[k, self.node(v, f"{place}[{k!r}]")] for k, v in value.items()]
                return {"mapping": name, "pairs": pairs}
        for name, sequence in _SEQUENCES.items():
            if kind is sequence:
                entries = [self.node(v, f"{place}[{i}]") for i, v in enumerate(value)]
                return {"sequence": name, "entries": entries}
        if kind is StoredLeaves or not jax.tree_util.all_leaves([value]):
            leaves = StoredLeaves.of(value)
            entries = [
                self.node(leaf, f"{place}{path}")
                for leaf, path in zip(leaves.leaves, leaves.paths, strict=True)
            ]
            return {"leaves": entries, "structure": leaves.structure, "paths": leaves.paths}
        raise ValueError(
            f"{place} is {shown(value)}, which no file keeps: it must be made of numbers, text, "
            "arrays, dictionaries, lists and tuples, or be a pytree of those"
        )

    def _array(self, value: Any, place: str) -> Any:
        form = "jax" if isinstance(value, jax.Array) else "numpy"
        key = None
        if form == "jax" and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            key = str(jax.random.key_impl(value))
            value = jax.random.key_data(value)
        weak = bool(getattr(value, "weak_type", False))
        if isinstance(value, np.generic):
            form = "scalar"
        values = np.asarray(value)
        dtype = values.dtype.name if values.dtype.kind == "V" else values.dtype.str
        if values.dtype.hasobject or _dtype(dtype) != values.dtype:
            raise ValueError(f"{place} is an array of dtype {values.dtype}, which no file keeps")
        digest = _digest(values)
        node: dict[str, Any] = {
            "dtype": dtype,
            "shape": values.shape,
            "form": form,
            "sha256": digest,
        }
        node |= {"key": key, "weak": weak}
        column = self._columns.get(digest)
        if column is not None:
            return {"array": node | {"column": column}}
        content = np.ascontiguousarray(values).tobytes()
        self._parts.append(content)
        self._size += len(content)
        return {"array": node | {"at": self._size - len(content), "size": len(content)}}


class Reader:
    """Makes objects of what a ``Writer`` made.

    Args:
      content: the bytes of the arrays.
      column: name -> labelled array of the file.
      classes: as of the ``Writer``.
    """

    def __init__(
        self, content: np.ndarray, column: Callable[[str], np.ndarray], classes: Classes
    ) -> None:
        self._content, self._column, self._classes = content, column, classes

    def value(self, node: Any) -> Any:
        """What a node stands for.

        Args:
          node: as the ``Writer`` made it.

        Raises:
          ValueError: an array is not what was written, or needs x64.
          LookupError, TypeError: the node is not one.
        """
        if not isinstance(node, dict):
            return node
        if "enum" in node:
            return getattr(self._classes[node["enum"]], node["name"])
        if "object" in node:
            kind = self._classes[node["object"]]
            known = {field.name for field in dataclasses.fields(kind)}
            fields = {k: self.value(v) for k, v in node["fields"].items() if k in known}
            return kind(**fields)
        if "mapping" in node:
            return _MAPPINGS[node["mapping"]]({k: self.value(v) for k, v in node["pairs"]})
        if "sequence" in node:
            return _SEQUENCES[node["sequence"]](map(self.value, node["entries"]))
        if "leaves" in node:
            leaves = tuple(map(self.value, node["leaves"]))
            return StoredLeaves(leaves, node["structure"], tuple(node["paths"]))
        return self._array(**node["array"])

    def _array(
        self,
        dtype: str,
        shape: list[int],
        form: str,
        sha256: str,
        column: str | None = None,
        at: int = 0,
        size: int = 0,
        key: str | None = None,
        weak: bool = False,
    ) -> Any:
        if column is None:
            values = np.frombuffer(self._content[at : at + size].tobytes(), _dtype(dtype))
            values = values.reshape(shape).copy()
        else:
            values = np.asarray(self._column(column))
        if values.dtype != _dtype(dtype) or _digest(values) != sha256:
            raise ValueError(f"the array {column or 'at byte ' + str(at)} is not what was saved")
        if form == "scalar":
            return values[()]
        if form == "numpy":
            return values
        if jax.dtypes.canonicalize_dtype(values.dtype) != values.dtype:
            raise ValueError(
                f"it holds {values.dtype}, which jax would round: enable x64 first, by "
                'jax.config.update("jax_enable_x64", True)'
            )
        if key is not None:
            return jax.random.wrap_key_data(jnp.asarray(values), impl=key)
        # a number of Python adapts to the dtypes that it meets, and so does what is made of it
        adapts = weak and not shape
        return jnp.asarray(
            values.item() if adapts else values, values.dtype if not adapts else None
        )


def digest_of_array(values: np.ndarray) -> str:
    """SHA-256 of dtype, shape and bytes.

    Args:
      values: any array.
    """
    head = f"{values.dtype} {values.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(values).tobytes()).hexdigest()


_digest = digest_of_array


def _dtype(text: str) -> np.dtype:
    try:
        return jnp.dtype(text)  # which knows bfloat16
    except TypeError:
        return np.dtype("V0")  # equal to no dtype of an array


def stored_parts(tree: Any) -> Iterator[StoredLeaves]:
    """The parts of a pytree that lack their classes.

    Args:
      tree: any pytree.
    """
    yield from filter(_is_stored, jax.tree.leaves(tree, is_leaf=_is_stored))
