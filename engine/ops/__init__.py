"""Pure functions on tensors and schedules, in the symbols of their papers; no model, no state."""
