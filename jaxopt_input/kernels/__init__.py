"""What a CPU wants computed differently, and nothing else."""
