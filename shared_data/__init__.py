"""One data set for both frameworks: found, cleaned, split, decoded and cached once."""
