"""The room of `models`."""
