"""Propagation rules, by family of operators."""
