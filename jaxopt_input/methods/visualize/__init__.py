"""The room of `visualize`."""
