"""Prepare data and train adapters on Ray.

records: datasets as people keep them. preparing: pictures encoded once, into shards. samples: what a step reads.
running: the workers, their loop and their checkpoints. validating: held-out people, beside the run. watching: its
figures and its page. planning: what it will take. sweeping: many runs. shipping: to a server. jobs: any command
on a cluster, and how a cluster is.
"""
