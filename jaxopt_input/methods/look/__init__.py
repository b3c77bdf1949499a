"""The room of `look`."""
