"""Music and labels: catalogs and streams for pretraining, labeled songs, and readers of data sets."""
