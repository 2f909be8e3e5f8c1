"""CodeAgent by composition: build, executor, first thought, recorder."""
