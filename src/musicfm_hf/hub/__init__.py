"""Sharing on the Hub: cards and pushes."""
