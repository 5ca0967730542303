"""One file for each way to search."""
