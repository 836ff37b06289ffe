"""`python -m consumers` is `segstream`."""

from consumers.cli import main

if __name__ == "__main__":
    main()
