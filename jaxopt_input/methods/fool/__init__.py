"""The room of `fool`."""
