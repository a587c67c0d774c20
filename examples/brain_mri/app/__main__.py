"""Entry point of the MAP: ``python3 /opt/holoscan/app`` (the command in app.json), or this folder on any machine.

The application's exit code is the answer: 0 only when a segmentation and a surface were written.
"""

import logging
import sys
import warnings

from application import BrainExtraction
from errors import one_line

if __name__ == "__main__":
    # The SDK and highdicom log UIDs, names of files and of people, pydicom warns of values by quoting them, and the SDK sets levels itself.
    # A log that is kept must not hold them.
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    try:
        BrainExtraction().run()
    except Exception as error:  # the last word of a failed run, for whoever reads map.log
        print(f"brain extraction failed: {one_line(error)}", file=sys.stderr, flush=True)
        raise SystemExit(1) from error
