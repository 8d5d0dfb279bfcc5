"""Tables and figures of finished runs, from their files alone."""
