"""Search of a catalog: an index of passages on disk, queries by song, part of a song or words, filters, duplicates."""
