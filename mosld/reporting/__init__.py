"""What finished runs say, read from their files alone."""
