"""Analogies of words: 400,000 pretrained vectors in a file, looked up without being loaded."""
