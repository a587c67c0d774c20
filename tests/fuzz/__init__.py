"""Mutates good uploads and runs them through the intake: ``python -m tests.fuzz --seconds 3600``."""
