"""Entry point: the SDK's operators around a bundle, run as most applications of the SDK are. Its exit code is the result."""

from application import BundleSegmentation

if __name__ == "__main__":
    BundleSegmentation().run()
