"""What tests share: servers that fail on purpose, clients, clocks. Named for what each fakes."""
