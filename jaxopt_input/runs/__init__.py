"""A run as a value: its folder, its record, its options.

A command is `run_options` on its own options, and a `Run` around its recipe and its page:

    @click.command()
    @click.option("--steps", type=click.IntRange(min=1), help="Updates of each image.")
    @run_options(without=("chunk",))            # --out --overwrite --config --model --seed --device --memory …
    @click.pass_context
    def method(context, steps, **_):
        with Run.of(context) as run:            # the folder is claimed, run.json says "running", devices are chosen
            from jaxopt_input.methods.method.recipe import recipe    # what imports JAX comes here

            result = recipe(run.model, steps=steps, key=run.key, on=run.resources)   # run.stage("image") counts images
            run.write(page(result, run.model.info.name, run.spec.seed))              # as often as something is found

A page holds what is shown by name, in `items`: `Picture`, `Figure`, `Film`, arrays; the rows of `results`; further
`entries` of run.json; `notes` for standard output and `warnings` for standard error. `lanes` and `overview` make the
pages of a `Solution`, `sheets`, `losses_of` and `film` add what most pages have. Mistakes are `InputError`: raised
before the first `write`, they leave no trace of the run.
"""
