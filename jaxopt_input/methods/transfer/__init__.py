"""The room of `transfer`."""
