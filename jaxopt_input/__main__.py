"""`python -m jaxopt_input` is the command line."""

from jaxopt_input.cli import main

if __name__ == "__main__":
    main(prog_name="jaxopt-input")
