"""Trees of arrays whose leaves have names."""

from typing import Any

import jax

Tree = Any  # nested dictionaries, tuples and dataclasses of arrays or of their shapes


def named_leaves(tree: Tree) -> list[tuple[str, Any]]:
    """Every leaf with its path, 'blocks/attention/query/kernel', in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator='/'), leaf) for path, leaf in leaves]
