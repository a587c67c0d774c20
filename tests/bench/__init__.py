"""Measurements: each module here is one, writes build/bench/NAME.json, and is run by ``make bench BENCH=NAME``.

Here belong comparisons of two ways on the same machine in the same run. Whether a figure is good enough is for a test to say.
"""
