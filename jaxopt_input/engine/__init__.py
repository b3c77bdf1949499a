"""The loop: lanes, compiled steps, the host's side, memory."""
