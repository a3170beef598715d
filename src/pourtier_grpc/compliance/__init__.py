"""Legal texts and consent, who may deploy, and the sealed log."""
