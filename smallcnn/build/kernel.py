"""The kernel of a chapter: IPython's, without what a machine's system folders would set in it."""

import os
import sys

if __name__ == "__main__":
    sys.path = [folder for folder in sys.path if folder not in ("", os.getcwd())]  # IPython adds it, last

    from IPython.core import application

    application.SYSTEM_CONFIG_DIRS.clear()

    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()
