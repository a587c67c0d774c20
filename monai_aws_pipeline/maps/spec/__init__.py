"""What control plane and host both read of a MAP: how it is run, what it asks of a study, what its golden study is to give.

No Dagster and no boto3: this folder is shipped to the inference host.
"""
