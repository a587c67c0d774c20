"""The wake function: turns uploads into jobs and makes sure that a host is coming. Ships with ``contract`` and Powertools only."""
