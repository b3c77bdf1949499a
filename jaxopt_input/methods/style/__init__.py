"""The room of `style`."""
