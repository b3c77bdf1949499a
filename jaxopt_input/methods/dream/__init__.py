"""The room of `dream`."""
