"""The typed config: composed by Hydra and checked whole before anything heavy is imported. No torch."""
