"""Entry point of the MAP: ``python3 /opt/holoscan/app`` (the command in app.json), or this folder on any machine.

The application's exit code is the answer: 0 only when a segmentation and a surface were written.
"""

import logging
import sys

from application import BrainExtraction

if __name__ == "__main__":
    # The SDK logs descriptions and UIDs of studies at INFO, and sets the level itself; a log that is kept must not hold them.
    logging.disable(logging.INFO)
    try:
        BrainExtraction().run()
    except Exception as error:  # the last word of a failed run, for whoever reads map.log
        print(f"brain extraction failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from error
