"""Programs that train with myemb: ``python -m examples.movielens``, from the root of a checkout."""
