"""Walks through Dagster's UI with real clicks and keeps the pictures of docs/walk.md.

    python pictures.py BROWSER FOLDER CHAPTER…

It needs playwright (``pip install playwright``), which is no dependency of the project, and a Chromium for it: BROWSER is its program. FOLDER
is the one of ``deployment``. Each chapter is a step of the walk and waits for what a person would see, never for a time.
"""
