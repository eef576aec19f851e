"""The torch frontend."""
