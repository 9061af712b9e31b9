"""Studies: a grid of pretraining variants, tasks and seeds, and the report on what each choice changes."""
