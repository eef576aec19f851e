"""Frontends: read a model into a Graph, run it, write a plan into it."""
