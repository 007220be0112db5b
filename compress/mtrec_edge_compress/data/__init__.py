"""`prepare`: sources in, one clean, private, split dataset out."""
