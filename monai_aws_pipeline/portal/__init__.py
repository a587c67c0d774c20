"""Pages that a browser opens: what became of a study, with its picture, figures, log, outputs and original.

Here belongs what is served to a person's browser, as one application with its routes in one place (``app``). What is known of a study is
read through ``operations.results_store``; what the lineage says of it belongs to ``studies``. Nothing here writes.
"""
