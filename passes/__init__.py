"""Passes: program in, valid program out; one pass per file."""
