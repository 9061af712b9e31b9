"""The code that travels with a model to the Hub."""
