"""The sub-commands of the command line, one module each: nothing but argument parsing."""
