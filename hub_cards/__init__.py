"""Templates of model cards, and the web application of the Space."""
