"""The example: brain extraction on a real T1-weighted head with a real model. ``python -m examples.brain_mri`` lists what it can do.

``app/`` is the MAP application and is packaged as it is; everything beside it prepares and judges, and never enters an image:
``fetch`` gets model and volume, ``study`` writes the DICOM study, ``reference`` the golden one, ``made`` says where they are kept,
``evaluate`` compares a result with the reference mask.
"""
