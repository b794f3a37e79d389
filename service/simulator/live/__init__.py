"""GPT-Live: sessions at ``/v1/live/sessions``, a protocol of its own in which the client speaks first."""
