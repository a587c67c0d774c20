"""What an operator does, without Dagster: upload, status, replay, promotion, sweep, teardown. Jobs and the command line call it."""
