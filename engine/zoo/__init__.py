"""Small models trained for real on pictures that ship with the project, and the recipes that trained them."""
