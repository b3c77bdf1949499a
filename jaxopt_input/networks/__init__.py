"""Networks: Flax definitions, their weights, and the registry of names."""

from jaxopt_input.networks.registry import Entry, cache_folder, entries, entry, import_weights, load, normalize

__all__ = ["Entry", "cache_folder", "entries", "entry", "import_weights", "load", "normalize"]
