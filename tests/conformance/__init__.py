"""Conformance to RFC 6455, judged by Autobahn's test suite, with the relay between its peers."""
