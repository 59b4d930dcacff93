"""A film recommender: eleven embedding tables trained on MovieLens-100k."""
