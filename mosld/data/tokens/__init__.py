"""From rows to tokens, with the cache of what was tokenized."""
