"""`python -m vaedist`: the command."""

from vaedist.cli import main

main(prog_name="vaedist")
