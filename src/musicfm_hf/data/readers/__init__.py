"""Readers of labelled data sets, one file each."""
