"""A run as a value: its folder, its record, its options."""
