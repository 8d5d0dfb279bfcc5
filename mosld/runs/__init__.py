"""What a run leaves on disk and on screen: its directory, results, tables and model card."""
