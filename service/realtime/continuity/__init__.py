"""What continues a conversation at another upstream connection. Pure."""
