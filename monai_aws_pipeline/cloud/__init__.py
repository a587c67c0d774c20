"""boto3, sorted by AWS concept: one module each for instances, images, registry, trigger, commands, storage, prices.

Here belong calls to AWS and the named errors they end in. Here belongs no Dagster, and no decision about what should exist:
those are pure functions in ``deployment``. Clients are made in ``session.py`` alone.
"""
