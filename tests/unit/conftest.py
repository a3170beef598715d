"""How hypothesis goes about the properties of this folder."""

from __future__ import annotations

import hypothesis

# An example may take as long as a busy machine makes it; what must be quick says so.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")
