"""Training of models of music and text on songs with captions: arguments, data, Trainer, scores."""
