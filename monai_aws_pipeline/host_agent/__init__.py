"""What runs on the inference host: takes jobs, runs the MAP on one study or several at once, commits the result, stops the idle machine.

Imports the standard library, boto3, pydicom, numpy, pillow, ``contract`` and ``maps.hosting``; nothing else of this project.
"""
