"""`python -m jrecon` is the `jrecon` command."""

from jrecon.cli import main

if __name__ == "__main__":
    main()
