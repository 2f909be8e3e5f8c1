"""The whole pipeline in one command: `pipeline` runs it, `report` says what came out."""
