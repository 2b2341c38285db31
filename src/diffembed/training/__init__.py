"""Training: recipes, the one loop, its stages, and what a killed run needs to go on."""
