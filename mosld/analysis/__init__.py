"""What the experts of finished runs hold, from their files alone."""
