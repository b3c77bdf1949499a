"""The room of `invert`."""
