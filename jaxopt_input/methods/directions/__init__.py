"""The room of `directions`."""
