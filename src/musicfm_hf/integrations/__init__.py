"""Bridges to other libraries that embed audio: sentence-transformers, and mteb with its audio benchmark."""
