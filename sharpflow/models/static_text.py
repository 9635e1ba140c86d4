"""Words that travel with a pytree without being one of its arrays."""

import jax


@jax.tree_util.register_static
class StaticText(str):
    """A text within a pytree of arrays, as the reason for a result.

    A text that is a leaf would be refused by ``jax.jit`` and cut by
    ``jax.tree.map(lambda leaf: leaf[:3], tree)``. This one is a part of the structure of the tree
    instead: it goes through ``jit`` and ``tree.map`` as it is.
    """

    __slots__ = ()
