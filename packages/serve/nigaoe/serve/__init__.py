"""Serve adapters over HTTP on Ray."""
