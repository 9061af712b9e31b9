"""The models and their parts. This folder is the code that is copied into saved folders and Hub repositories."""
