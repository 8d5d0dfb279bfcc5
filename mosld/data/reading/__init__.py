"""From files and published sets to checked rows."""
