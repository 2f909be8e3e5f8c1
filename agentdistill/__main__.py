"""`python -m agentdistill`."""

from agentdistill.cli.main import main

main()
