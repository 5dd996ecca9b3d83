"""Prepare data and train adapters on Ray."""
