"""Trees of arrays whose leaves have names."""

from typing import Any

import jax

Tree = Any  # nested dictionaries, tuples and dataclasses of arrays or of their shapes


def is_stacked(name: str) -> bool:
    """Whether a parameter, by its path, has a leading layer axis: those of blocks, the decoder's or an encoder's."""
    return name.startswith(('blocks/', 'encoder/blocks/'))


def named_leaves(tree: Tree) -> list[tuple[str, Any]]:
    """Every leaf with its path, 'blocks/attention/query/kernel', in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator='/'), leaf) for path, leaf in leaves]
