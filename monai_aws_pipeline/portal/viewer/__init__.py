"""One answered study in a browser: OHIF on a read-only DICOMweb of that study alone, and a 3D page of its volume, mask and surface.

Here belong reading a study from its archive or from the bucket, taking out what identifies a person before anything is sent (``veil``), and
the viewers' own files, which are fetched by hash (``packages``). Nothing here writes to bucket or archive.
"""
