"""The room of `attack`."""
