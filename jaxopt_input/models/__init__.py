"""Networks as functions from images to activations, and what is read off them."""
