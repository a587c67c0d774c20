"""A study in a DICOMweb archive: HealthImaging (signed by SigV4), Orthanc or any other (a token or a password).

Here belong storing by STOW-RS with the answer read instance by instance, and what is compared before. It runs on hosts and on the control
plane alike: no Dagster, no settings, nothing of ours but ``errors``. Who calls it, and what follows from a record, is not its affair.
"""
