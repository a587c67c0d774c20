"""Taking a study's identifiers out of what an application prints, and nothing else out of it."""
