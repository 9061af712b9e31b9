"""Music and its labels: catalogues and streams to pretrain on, labeled songs, and readers of data sets."""
