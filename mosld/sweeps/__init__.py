"""Many runs from one command: every job is checked first and runs in its own process."""
