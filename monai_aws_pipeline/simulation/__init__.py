"""A day of studies on a fleet of inference hosts, reckoned from measured seconds: machines, waiting and US dollars beforehand.

Standard library only but for what the command prints with; no cloud, no Dagster. ``measured`` has every figure with its source,
``arrivals`` when studies come, ``fleet`` how many hosts are wanted, ``host`` and ``day`` what then happens, ``summary`` what it comes to.

The loop of events is a heap and not simpy: k studies side by side share a host at a rate that changes whenever one comes or goes, which
simpy's resources do not know, so that little of it would be left; and a day of 50,000 studies takes seconds this way.
"""
