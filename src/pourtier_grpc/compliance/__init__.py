"""The rules of evidence: what can be shown to have happened."""
