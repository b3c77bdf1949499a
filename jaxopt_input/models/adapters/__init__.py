"""Adapters: models of modules of Flax, Equinox and Haiku, and checkpoints of Orbax; one library per file.

Each adapter takes a module of its library and makes a `Model` of it. A module that returns a dictionary names its own
taps. Of any other, every submodule's output is a tap under its path (".1" is appended to the second call of a shared
submodule), in order of depth, and the output itself is "logits". Layers that run inside a transformation of the
module's own (vmap, scan, remat, jit) are no taps. Nothing of a library is imported before its adapter is called.
"""

from jaxopt_input.models.adapters.checkpoint import load_checkpoint
from jaxopt_input.models.adapters.equinox import from_equinox
from jaxopt_input.models.adapters.haiku import from_haiku
from jaxopt_input.models.adapters.linen import from_linen
from jaxopt_input.models.adapters.nnx import from_nnx

__all__ = ["from_equinox", "from_haiku", "from_linen", "from_nnx", "load_checkpoint"]
