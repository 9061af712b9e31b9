"""Music and labels to learn from."""
