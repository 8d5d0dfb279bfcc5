"""What the adapters of finished runs hold: their experts' products, the shared A, and which task takes which expert."""
