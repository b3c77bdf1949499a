"""The room of `exemplars`."""
