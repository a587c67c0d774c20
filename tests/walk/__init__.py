"""The clicks behind the pictures of the pages. No tests.

For docs/walk.md ``deployment`` makes the state and ``pictures`` walks through Dagster's UI; for docs/portal.md and docs/viewer.md
``portal`` walks through a portal that runs.
"""
