"""``python -m unfreeze``: the command line, where the ``unfreeze`` script isn't on the path."""

import sys

from unfreeze.cli import main

if __name__ == "__main__":
    sys.exit(main())
