"""What ``make demo`` starts: its steps, the rollback, whether idle hosts cost nothing. Beside the command line alone in knowing
``local_cloud``.
"""
