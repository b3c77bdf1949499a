"""Pictures of pictures: sheets, curves, animations."""
