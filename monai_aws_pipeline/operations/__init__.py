"""What an operator does, without Dagster: bootstrap, preflight, upload, status, replay, promotion, hosts, retention, sweep, teardown.

Jobs and the command line call it; what AWS is asked by is in ``cloud``.
"""
