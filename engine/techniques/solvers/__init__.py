"""Samplers: functions that own the loop over noise levels."""
