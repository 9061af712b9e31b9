"""Music and its labels: catalogs and streams to pretrain on, labeled songs, and readers of data sets."""
