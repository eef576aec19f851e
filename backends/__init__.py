"""Backends: targets, lowering and schedules, artifacts."""
