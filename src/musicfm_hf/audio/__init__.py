"""Audio files and waveforms: reading, and windows over them."""
