"""``python -m unfreeze``: the command line, where the ``unfreeze`` script isn't on the path."""

from unfreeze.cli import main

if __name__ == "__main__":
    main()
