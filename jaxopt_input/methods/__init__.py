"""One room for each method: recipe, settings, page, command."""
