"""Memory, FLOPs and hours of a run, counted without loading anything."""
