"""Generate and score images in shards on Ray."""
