"""From an upload to one clean stack of images: fetched, unpacked, read, judged by what the application asks. No container, no output."""
