"""The deployment and the clicks behind docs/walk.md and its pictures: ``deployment`` makes the state, ``pictures`` walks. No tests."""
