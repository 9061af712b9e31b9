"""Audio files and waveforms: reading them, and cutting them into windows."""
