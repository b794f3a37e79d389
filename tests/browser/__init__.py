"""The console's pages in Chromium: `python -m tests.browser`."""
