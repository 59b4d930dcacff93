"""A language identifier: one large table of character n-grams, trained on manuals of GNOME."""
