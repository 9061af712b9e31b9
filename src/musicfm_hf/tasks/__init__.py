"""Music tasks: labels, targets from annotations, events from activations, scores; and the decoders they share."""
