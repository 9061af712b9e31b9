"""Models and their parts: exactly the code that is copied into a saved folder and a Hub repository."""
