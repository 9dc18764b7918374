"""What a run will need, told from its configuration and the model's config.json alone: no weights, no GPU (`aft-ray plan`)."""
