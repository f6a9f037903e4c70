"""`python cli.py ...` in a checkout is `featcache ...`."""

from featcache.cli import main

if __name__ == "__main__":
    main()
