"""The command line by `python -m worker_space_local.cli`, where the console script is not on the path."""

from worker_space_local.cli import main

if __name__ == "__main__":
    main(prog_name="worker-space")
