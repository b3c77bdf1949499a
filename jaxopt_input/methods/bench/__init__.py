"""The room of `bench`."""
