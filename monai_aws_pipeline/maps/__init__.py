"""MONAI Application Packages: sources, manifests, build contexts, conformance, hosting. No dagster and no boto3 in here."""
