"""Formats that other tools read: one file a format, each a function from a Sample to what is written."""
