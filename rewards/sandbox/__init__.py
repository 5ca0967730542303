"""Runs programs that nobody has read: without network, files, other processes or more than their share."""
