"""The tests; the folders mirror service/."""
