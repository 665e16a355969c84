"""``python -m crewkeep`` is the command line."""

from crewkeep.cli import main

if __name__ == "__main__":
    main()
