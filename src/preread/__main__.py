"""`python -m preread`, which is how launchers of several processes start it."""

from preread.cli import main

main()
