"""Many runs out of one command: every job checked first, each a process of its own, a table of all at the end."""
